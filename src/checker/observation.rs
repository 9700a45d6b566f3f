//! Observes the target: which Node.js it uses, whether pcluster starts, and which template pcluster builds.

use std::env;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::checker::request::CheckRequest;
use crate::environment::interpreter::python_path;
use crate::environment::node::{self, Node, NodeError};
use crate::environment::question::{self, Start};
use crate::environment::record::find_owner;
use crate::environment::synthesis::{self, Answer, Call, Synthesis};
use crate::environment::target::Target;
use crate::error::{Abort, Interrupted};
use crate::model::expectation::{StartupFailure, StartupStage};
use crate::model::finding::Finding;
use crate::report::builder::{CheckResult, ReportBuilder};
use crate::rules::advisories::{Evidence, explain};
use crate::rules::startup::{self, Owners};
use crate::rules::template::TemplateRules;
use crate::system::child::ChildError;

#[derive(Debug)]
pub struct Observer<'a> {
    pub request: &'a CheckRequest<'a>,
    pub target: &'a Target,
    pub rules: &'a TemplateRules<'a>,
}

#[derive(Debug)]
pub enum Observed {
    /// The real pcluster rejects the call, or fails on it.
    Refused {
        stage: String,
        message: String,
    },
    Seen(Box<Seen>),
}

/// What was observed: a result for each check.
#[derive(Debug)]
pub struct Seen {
    node: Result<Node, NodeError>,
    /// `None` if it is not known whether pcluster starts; the report then has no `startup` check.
    startup: Option<(Duration, CheckResult)>,
    template: (Duration, CheckResult),
    built: Option<Value>,
    pub evidence: Evidence,
    /// Whether a minimal configuration might give a template. This is true only if the user's configuration
    /// gave no template, and no minimal configuration has been tried.
    pub minimal_may_build: bool,
}

impl Seen {
    /// Marks the findings that these advisories explain.
    pub fn explain_by(&mut self, advised: &[Finding]) {
        let results = self.startup.iter_mut().chain([&mut self.template]);
        for (_, result) in results {
            if let CheckResult::Findings(findings) = result {
                for finding in findings {
                    explain(finding, advised);
                }
            }
        }
    }

    /// Adds the checks to a report, and returns the template.
    pub fn add_to(self, report: &mut ReportBuilder) -> Option<Value> {
        let node = match self.node {
            Ok(node) => {
                if let Some(info) = &mut report.target {
                    info.node = Some(node.path);
                    info.node_version = Some(node.version.to_string());
                }
                CheckResult::PASSED
            }
            Err(reason) => CheckResult::Unknown(reason.to_string()),
        };
        report.add("node", Duration::ZERO, node);
        if let Some((took, startup)) = self.startup {
            report.add("startup", took, startup);
        }
        let (took, template) = self.template;
        report.add("template", took, template);
        self.built
    }
}

impl Observer<'_> {
    /// Builds the template of a call and, after some failures, of a minimal configuration
    /// ([`synthesis::synthesize`]). Only CDK needs Node.js, and pcluster rejects an invalid call before CDK
    /// runs. So the build is tried even if Node.js is missing: pcluster may reject the call. The version of
    /// Node.js is determined at the same time.
    pub fn observe(&self, call: &Call) -> Result<Observed, Abort> {
        let since = Instant::now();
        let node = node::ask(self.target, self.request.settings.timeout);
        let synthesized = self.synthesize(call)?;
        let took = since.elapsed();
        let node = match node.and_then(node::PendingNode::wait) {
            Err(NodeError::Child(ChildError::Interrupted(interrupted))) => return Err(interrupted.into()),
            node => node,
        };
        let (startup, synthesized) = match synthesized {
            Ok(Answer { synthesis: Synthesis::Rejected { stage, message }, .. }) => {
                return Ok(Observed::Refused { stage, message });
            }
            Ok(Answer { synthesis: Synthesis::Unstartable(failure), .. })
                if failure.stage == StartupStage::Import =>
            {
                let (startup, starts) = self.describe_failed_start(&failure)?;
                return Ok(Observed::Seen(Box::new(Seen {
                    node,
                    startup: Some((took, startup)),
                    template: (Duration::ZERO, CheckResult::Skipped("pcluster does not start".into())),
                    built: None,
                    evidence: Evidence { starts, has_right_template: false },
                    minimal_may_build: false,
                })));
            }
            Ok(Answer { synthesis, startup }) => (startup, Ok(synthesis)),
            Err(error) => (None, Err(error)),
        };
        let evidence =
            Evidence { starts: startup.is_some(), has_right_template: self.is_right(&synthesized) };
        // The user's call may cause the failures below. After these failures, `synthesize` has not tried
        // a minimal configuration.
        let minimal_may_build = matches!(call, Call::Given(_))
            && match &synthesized {
                Ok(Synthesis::Unexpected { .. }) => true,
                Ok(Synthesis::Failed { stage, .. }) => ["arguments", "expectation"].contains(&stage.as_str()),
                _ => false,
            };
        let template = self.judge(&synthesized, node.is_ok());
        let built = match synthesized {
            Ok(Synthesis::Template { template, .. }) => Some(template),
            _ => None,
        };
        Ok(Observed::Seen(Box::new(Seen {
            node,
            startup: startup.map(|took| (took, CheckResult::PASSED)),
            template: (took, template),
            built,
            evidence,
            minimal_may_build,
        })))
    }

    /// Builds the template of a minimal configuration, and records in `seen` whether the template is right.
    pub fn observe_minimal(&self, seen: &mut Seen) -> Result<(), Abort> {
        if let Ok(answer) = self.synthesize(&Call::minimal())? {
            seen.evidence.has_right_template = self.is_right(&Ok(answer.synthesis));
        }
        Ok(())
    }

    /// The outer error is a signal; the inner one belongs in the report.
    fn synthesize(&self, call: &Call) -> Result<Result<Answer, ChildError>, Interrupted> {
        let _step = self.request.progress.step("building the template that build-image would submit");
        match synthesis::synthesize(
            self.target,
            call,
            self.request.known_images(),
            self.request.settings.timeout,
        ) {
            Err(ChildError::Interrupted(interrupted)) => Err(interrupted),
            synthesized => Ok(synthesized),
        }
    }

    /// Whether a template was built, and has everything that is expected of it. Only such a template can
    /// refute an advisory; other findings about the template do not matter here.
    fn is_right(&self, synthesized: &Result<Synthesis, ChildError>) -> bool {
        match synthesized {
            Ok(Synthesis::Template { template, expectation }) => {
                !self.rules.falls_short(template, expectation)
            }
            _ => false,
        }
    }

    /// Describes a failed start of pcluster. If the launcher is a wrapper, the failure counts only if
    /// pcluster raises the same exception when the wrapper starts pcluster. The second value is whether
    /// pcluster starts through the wrapper.
    fn describe_failed_start(&self, failure: &StartupFailure) -> Result<(CheckResult, bool), Interrupted> {
        let fails = || CheckResult::Findings(vec![self.describe_failure(failure)]);
        if !self.target.is_wrapped {
            return Ok((fails(), false));
        }
        let overlay = self.target.overlay.as_deref();
        let python_path = overlay.map(|overlay| python_path(overlay, env::var_os("PYTHONPATH")));
        let launcher = &self.request.real.path;
        let asked = question::ask_for_start(
            launcher,
            // The launcher is started with the user's call even if the check uses a minimal configuration.
            self.request.call.given(),
            python_path,
            self.request.settings.timeout,
        );
        let launcher = launcher.display();
        let starts = matches!(asked, Ok(Start::Starts));
        let contradiction = match asked {
            Ok(Start::Fails(exception)) if exception == failure.exception => return Ok((fails(), false)),
            Ok(Start::Fails(exception)) => format!("{launcher} fails with {exception}"),
            // The launcher fails before pcluster is imported.
            Ok(Start::Unknown) => format!("{launcher} fails in another way"),
            Ok(Start::Starts) => format!("{launcher} starts pcluster"),
            Err(ChildError::Interrupted(interrupted)) => return Err(interrupted),
            Err(error) => error.to_string(),
        };
        let reason =
            format!("{contradiction}, but importing pcluster in the check fails with {}", failure.describe());
        Ok((CheckResult::Unknown(reason), starts))
    }

    fn describe_failure(&self, failure: &StartupFailure) -> Finding {
        let packages = self.rules.packages;
        let owner =
            |file: &Option<String>| file.as_ref().and_then(|file| find_owner(packages, Path::new(file)));
        startup::describe(failure, Owners { file: owner(&failure.file), module: owner(&failure.module_file) })
    }

    fn judge(&self, synthesized: &Result<Synthesis, ChildError>, has_node: bool) -> CheckResult {
        match synthesized {
            Ok(Synthesis::Template { template, expectation }) => {
                CheckResult::Findings(self.rules.check(template, expectation))
            }
            Ok(Synthesis::Unexpected { call }) => CheckResult::Unknown(format!(
                "building it would call AWS ({call}), which a check must not do"
            )),
            // The `node` check reports what is wrong with Node.js.
            _ if !has_node => CheckResult::Skipped("building it needs Node.js".into()),
            Ok(Synthesis::Unstartable(failure)) if !self.target.is_wrapped => {
                CheckResult::Findings(vec![self.describe_failure(failure)])
            }
            // With a wrapping launcher, the result is unknown: the launcher may change how modules are found,
            // and nothing else confirms the failure.
            Ok(Synthesis::Unstartable(failure)) => {
                CheckResult::Unknown(format!("building it fails: {}", failure.describe()))
            }
            Ok(Synthesis::Failed { stage, message }) if stage == "template" => {
                CheckResult::Unknown(format!("building it fails: {message}"))
            }
            Ok(Synthesis::Failed { stage, message }) => {
                CheckResult::Unknown(format!("building it fails at the step `{stage}`: {message}"))
            }
            // `observe` has already returned for `Rejected`. The answer is `Started` only if no template
            // was requested.
            Ok(Synthesis::Rejected { .. } | Synthesis::Started) => {
                CheckResult::Unknown("it was not built".into())
            }
            Err(reason) => CheckResult::Unknown(reason.to_string()),
        }
    }
}
