//! `preflight config`: a config.yaml with every key, its default and the origin of its current value.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::args::{Common, Format};
use crate::cli::settings::{ListedSetting, Origin, Settings, config_path};
use crate::error::{Abort, Error};
use crate::model::env_vars;
use crate::outcome::Outcome;
use crate::preflight::context::{find_named, read_settings, start_search};
use crate::report;
use crate::text::printable::escape_line;

/// A key of config.yaml.
struct Key {
    name: &'static str,
    /// What the key means: the lines of the comment above the key.
    meaning: &'static str,
    /// The value in the commented-out line: the default, or an example if there is no default.
    value: &'static str,
    variable: Option<&'static str>,
}

const KEYS: [Key; 9] = [
    Key {
        name: "mode",
        meaning: "What the guard does if a check of build-image finds an error:\n\
                  block, fix (repair the environment, then continue), warn, or off.",
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
        meaning: "The program that resolves and fetches packages for a repair: uv, pip, or auto\n\
                  (uv if it is installed).",
        value: "auto",
        variable: None,
    },
    Key {
        name: "strategy",
        meaning: "How a repair changes packages: upgrade, downgrade, or release (the versions\n\
                  available when that release of aws-parallelcluster came out).",
        value: "upgrade",
        variable: None,
    },
    Key {
        name: "aws",
        meaning: "Whether build-image and check -c ask AWS about the parent image, the\n\
                  components and the subnet, with read-only calls. To print the permissions,\n\
                  run pcluster preflight check --aws --print-policy.",
        value: "false",
        variable: None,
    },
    Key {
        name: "ignore",
        meaning: "Ids of warnings and infos to ignore: they are counted but not printed.\n\
                  `preflight fix` repairs them only if you pass their ids. An error cannot be ignored.",
        value: "[]",
        variable: None,
    },
    Key {
        name: "advisories",
        meaning: "More advisory files. A relative path is relative to the directory of this\n\
                  file.",
        value: "[advisories.yaml]",
        variable: None,
    },
];

/// Prints a config.yaml. Keys that the user's config.yaml sets are set in the output too.
pub fn run(common: &Common) -> Result<Outcome, Abort> {
    let path = config_path();
    if let Some(file) = path.clone().filter(|path| is_emptied(path)) {
        return Err(Error::Emptied { file }.into());
    }
    let settings = read_settings()?;
    let search = start_search(common, &settings);
    let present = settings.list(find_named(&search));
    let text = if common.format == Format::Json {
        let settings = present.iter().map(|setting| (setting.name, setting)).collect::<BTreeMap<_, _>>();
        report::format_json(&json!({"schemaVersion": 1, "settings": settings}))
    } else {
        let of_file = Settings::read_file_alone();
        let real = of_file.real.as_deref();
        let origin = if real.is_some() { Origin::File } else { Origin::Default };
        render(&of_file.list((real, origin)), &present, path.as_deref())
    };
    Ok(Outcome::success(text))
}

/// Whether standard output is redirected into this file, so that the shell has just emptied the file.
/// Emptying an existing file changes its modification time, but not its creation time. A file that the shell
/// has just created does not count.
fn is_emptied(path: &Path) -> bool {
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).metadata());
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let is_older = |file: &Metadata| file.created().ok() < file.modified().ok();
    let file = path.metadata().ok().filter(|file| file.is_file() && file.len() == 0 && is_older(file));
    file.zip(stdout.ok()).is_some_and(|(file, stdout)| identity(&file) == identity(&stdout))
}

fn render(of_file: &[ListedSetting], present: &[ListedSetting], path: Option<&Path>) -> String {
    let mut lines: Vec<String> =
        vec!["# config.yaml of pcluster-shim. A variable overrides this file; a flag overrides both.".into()];
    lines.extend(path.map(|path| {
        let place = if path.exists() { "Its path is" } else { "It does not exist yet. Its path is" };
        format!("# {place} {}", escape_line(&path.display().to_string()))
    }));
    let find = |listed: &'_ [ListedSetting], key: &Key| {
        let setting = listed.iter().find(|setting| setting.name == key.name);
        setting.map(|setting| (setting.origin, format_value(&setting.value)))
    };
    for key in &KEYS {
        lines.push(String::new());
        lines.extend(key.meaning.lines().map(|line| format!("# {line}")));
        lines.extend(match (find(present, key), key.variable) {
            (Some((Origin::Variable, value)), Some(variable)) => {
                Some(format!("# {variable} is set: {value}"))
            }
            (Some((Origin::Flag, value)), _) => Some(format!("# Set by a flag of this call: {value}")),
            (_, variable) => variable.map(|variable| format!("# Variable: {variable}")),
        });
        lines.push(match find(of_file, key) {
            Some((Origin::File, value)) => format!("{}: {value}", key.name),
            _ => format!("#{}: {}", key.name, key.value),
        });
    }
    lines.join("\n") + "\n"
}

/// A value as YAML: a word is unchanged, everything else is written as JSON, which is valid YAML.
fn format_value(value: &Value) -> String {
    match value.as_str() {
        Some(word) if word.bytes().all(|letter| letter.is_ascii_lowercase()) => word.to_owned(),
        _ => report::escape_json(value.to_string()),
    }
}
