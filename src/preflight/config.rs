//! `preflight config`: a config.yaml with every key, its default and its present origin.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::args::{Common, Format};
use crate::cli::env_vars;
use crate::cli::settings::{ListedSetting, Origin, config_path};
use crate::error::Abort;
use crate::outcome::Outcome;
use crate::preflight::context::{find_named, read_settings, start_search};
use crate::printable::escape;
use crate::report;

/// A key of the file.
struct Key {
    name: &'static str,
    /// What it means, in lines of a comment.
    meaning: &'static str,
    /// A value as it stands behind a `#`: the default, or an example where there is none.
    value: &'static str,
    variable: Option<&'static str>,
}

const KEYS: [Key; 7] = [
    Key {
        name: "mode",
        meaning: "What the guard does about a build-image that would fail or lose its image:\n\
                  block, fix (repair the environment, then go on), warn, or off.",
        value: "block",
        variable: Some(env_vars::MODE),
    },
    Key {
        name: "real",
        meaning: "The absolute path of the real pcluster, for build-image and preflight. Without\n\
                  it, the first one on PATH.",
        value: "/opt/pcluster/bin/pcluster",
        variable: Some(env_vars::REAL),
    },
    Key {
        name: "strict",
        meaning: "Whether a check that cannot run stops build-image.",
        value: "false",
        variable: Some(env_vars::STRICT),
    },
    Key {
        name: "timeout",
        meaning: "Seconds for one child process of a check, 1 to 86400. An installer gets ten\n\
                  times that.",
        value: "120",
        variable: Some(env_vars::TIMEOUT),
    },
    Key {
        name: "installer",
        meaning: "What resolves and fetches packages for a repair: uv, pip, or auto (uv where\n\
                  there is one).",
        value: "auto",
        variable: None,
    },
    Key {
        name: "strategy",
        meaning: "Where a repair moves packages: upgrade, downgrade, or release (those of the\n\
                  day on which that release of aws-parallelcluster came out).",
        value: "upgrade",
        variable: None,
    },
    Key {
        name: "advisories",
        meaning: "More files of advisories; a relative path counts from the directory of this\n\
                  file.",
        value: "[advisories.yaml]",
        variable: None,
    },
];

/// Prints the file. What the present one sets is set in it, too.
///
/// # Errors
/// Returns an error if a file or a variable is refused.
pub fn run(common: &Common) -> Result<Outcome, Abort> {
    let settings = read_settings()?;
    let search = start_search(common, &settings);
    let listed = settings.list(find_named(&search));
    let text = match common.format {
        Format::Json => {
            let settings: BTreeMap<_, _> = listed.iter().map(|setting| (setting.name, setting)).collect();
            report::format_json(&json!({"schemaVersion": 1, "settings": settings}))
        }
        _ => escape(&render(&listed, config_path().as_deref())).into_owned(),
    };
    Ok(Outcome::success(text))
}

fn render(listed: &[ListedSetting], path: Option<&Path>) -> String {
    let mut lines: Vec<String> =
        vec!["# config.yaml of pcluster-shim. A variable beats this file, a flag beats both.".into()];
    lines.extend(path.map(|path| {
        let place = if path.exists() { "It is" } else { "There is none yet. Its place is" };
        format!("# {place} {}", path.display())
    }));
    for (key, setting) in KEYS.iter().filter_map(|key| Some((key, find(listed, key)?))) {
        lines.push(String::new());
        lines.extend(key.meaning.lines().map(|line| format!("# {line}")));
        let present = format_value(&setting.value);
        lines.extend(match (setting.origin, key.variable) {
            (Origin::Variable, Some(variable)) => Some(format!("# {variable} is set: {present}")),
            (Origin::Flag, _) => Some(format!("# A flag of this call is set: {present}")),
            (_, variable) => variable.map(|variable| format!("# Variable: {variable}")),
        });
        lines.push(match setting.origin {
            Origin::File => format!("{}: {present}", key.name),
            _ => format!("#{}: {}", key.name, key.value),
        });
    }
    lines.join("\n") + "\n"
}

fn find<'a>(listed: &'a [ListedSetting], key: &Key) -> Option<&'a ListedSetting> {
    listed.iter().find(|setting| setting.name == key.name)
}

/// A value as YAML: a word as it is, everything else as JSON, which YAML reads.
fn format_value(value: &Value) -> String {
    match value.as_str() {
        Some(word) if word.bytes().all(|letter| letter.is_ascii_lowercase()) => word.to_owned(),
        _ => value.to_string(),
    }
}
