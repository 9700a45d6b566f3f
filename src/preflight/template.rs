//! `preflight template`.

use std::io;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::checker::shim;
use crate::cli::args::{Common, Deny};
use crate::error::{Abort, Error};
use crate::model::expectation::Expectation;
use crate::model::finding::Fix;
use crate::outcome::Outcome;
use crate::preflight::context::{deny, render_report};
use crate::report::Report;
use crate::report::builder::{CheckResult, ReportBuilder};
use crate::rules::advisories::file;
use crate::rules::template::check_everywhere;
use crate::rules::template::{asked, cloudformation};
use crate::system::{self, files};

/// Checks a template that was created earlier.
pub fn run(file: &Path, denied: Option<Deny>, common: &Common) -> Result<Outcome, Abort> {
    let since = Instant::now();
    let (name, input) = read_input(file)?;
    let template =
        cloudformation::parse(&input).map_err(|message| Error::NotATemplate { file: name, message })?;
    let mut report = check_template(&template, BUILD_AGAIN, since);
    deny(&mut report, denied);
    Ok(render_report(&report, common)?)
}

/// The fix for lost tags if the build has failed, or if nothing is known about it.
pub const BUILD_AGAIN: &str = "build the image again in an environment that `pcluster preflight` finds ready";

/// The report on a template, if neither its image configuration nor its environment is known.
pub fn check_template(template: &Value, fix: &str, since: Instant) -> Box<Report> {
    let fix = Fix::by_hand(fix.into());
    let mut findings = asked::check(template, &Expectation::default(), &fix);
    findings.extend(check_everywhere(template, None, &file::built_in(), system::today()));
    // A repair would change later templates, but not this one.
    for finding in findings.iter_mut().filter(|finding| finding.has_repair()) {
        finding.fix = Some(fix.clone());
    }
    let mut report = ReportBuilder::new(None);
    report.add("template", since.elapsed(), CheckResult::Findings(findings));
    report.build(shim())
}

fn read_input(file: &Path) -> Result<(String, Vec<u8>), Error> {
    if file == Path::new("-") {
        let read = files::read_stream(io::stdin(), files::MAX_BYTES);
        let bad = |error: io::Error| Error::NotATemplate {
            file: "standard input".into(),
            message: error.to_string(),
        };
        return read.map(|input| ("standard input".into(), input)).map_err(bad);
    }
    let input = files::read(file).map_err(|error| Error::of_file(file, &error))?;
    Ok((file.display().to_string(), input))
}
