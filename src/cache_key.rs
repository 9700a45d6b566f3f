//! What a cached verdict depends on: everything that decides about the template.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::cache::Fingerprint;
use crate::environment::image_configuration::file_names;
use crate::environment::node::Node;
use crate::environment::packages::Packages;
use crate::environment::synthesis::{self, Call};
use crate::environment::target::Target;
use crate::system::files;

/// The variables that botocore, Python, Node.js and jsii read.
const PREFIXES: [&str; 4] = ["AWS_", "PYTHON", "NODE_", "JSII_"];

/// Variables that change from hour to hour and decide about no template.
const CREDENTIALS: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// The files in which a profile's region may stand: the variable that names each, and its default
/// below HOME.
const AWS_FILES: [(&str, &str); 2] =
    [("AWS_CONFIG_FILE", ".aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")];

/// The call and the environment, all but Node.js; `rules` is what findings depend on beside them.
#[must_use]
pub fn fingerprint(call: &Call, target: &Target, packages: &Packages, rules: &str) -> Fingerprint {
    let mut key = Fingerprint::new();
    key.field(rules);
    key.field(synthesis::SYNTHESIS_PY).field(&target.interpreter.version);
    key.file(&target.interpreter.executable);
    for entry in &target.interpreter.sys_path {
        key.field(entry.as_os_str().as_bytes());
    }
    packages.fingerprint(&target.interpreter, &mut key);
    add_variables(target, &mut key);
    add_aws_files(&mut key);
    add_call(call, &mut key);
    key
}

/// The key of a verdict.
#[must_use]
pub fn verdict_key(fingerprint: &Fingerprint, node: &Node) -> String {
    let mut key = fingerprint.clone();
    key.file(&node.path).field(node.version.to_string());
    key.key()
}

fn add_variables(target: &Target, key: &mut Fingerprint) {
    for (name, value) in env::vars_os().filter(|(name, _)| is_relevant(name)) {
        key.field(name.as_bytes()).field(value.as_bytes());
    }
    for (name, value) in &target.environment {
        key.field(name.as_bytes()).field(value.as_deref().unwrap_or_default().as_bytes());
    }
}

fn is_relevant(name: &OsStr) -> bool {
    let name = name.as_bytes();
    PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
        && !CREDENTIALS.iter().any(|credential| name == credential.as_bytes())
}

fn add_aws_files(key: &mut Fingerprint) {
    for (variable, below_home) in AWS_FILES {
        let in_home = || env::var_os("HOME").map(|home| Path::new(&home).join(below_home));
        if let Some(file) = env::var_os(variable).map(PathBuf::from).or_else(in_home) {
            key.file(&file);
        }
    }
}

/// The arguments, and the content of the files that they name, in whatever form they name them, as
/// far as a check reads files; the rest is taken as `stat` tells it.
fn add_call(call: &Call, key: &mut Fingerprint) {
    let (form, arguments) = match call {
        Call::Given(arguments) => ("given", arguments),
        Call::Minimal(options) => ("minimal", options),
    };
    key.field(form);
    for argument in arguments {
        key.field(argument.as_bytes());
        for name in file_names(argument).filter(|name| name.is_file()) {
            match files::read(name) {
                Ok(content) => key.field(content),
                Err(_) => key.file(name),
            };
        }
    }
}
