//! `preflight fix`, `preflight undo`, mode `fix`: what they do, what they refuse, what they say.

mod bytecode; // compiled packages before, during and after a repair
mod concurrent; // a uv or a pip at work at the same time as a repair
mod files; // the files that a repair places (scripts, data, links), and files that are in its way
mod fix; // a repair from its start to its undo, the ways to ask for one, and mode `fix`
mod installers; // which installer a repair uses, what it asks of the installer, and how the installer fails
mod isolated; // repairs that are kept outside the environment
mod journal; // journals and snapshots that are damaged, forged or of an older version
mod modes; // the group and the mode of what a repair places
mod refused; // environments that are not repaired in place, because of who manages or owns them
mod undo; // undo in an environment that has changed since its repair

use std::fs;

use serde_json::Value;

use crate::support::broken_environment::{BrokenEnvironment, TOKEN};

#[track_caller]
fn versions(environment: &BrokenEnvironment) -> Vec<String> {
    let packages = environment.path("site").read_dir().unwrap().flatten();
    let names = packages.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".dist-info").map(str::to_owned)).collect();
    names.sort();
    names
}

const REPAIRED: [&str; 6] = [
    "attrs-21.4.0",
    "aws-parallelcluster-3.1.3",
    "aws_cdk.aws-imagebuilder-1.204.0",
    "aws_cdk.core-1.204.0",
    "jsii-1.132.0",
    "setuptools-80.9.0",
];

/// Changes a JSON file of the repair's state.
fn edit(file: &std::path::Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    change(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

fn without_times(
    tree: &crate::support::broken_environment::Tree,
) -> crate::support::broken_environment::Tree {
    let without = |what: &String| match (what.find('('), what.find(')')) {
        (Some(from), Some(to)) if !what.starts_with("directory") => {
            format!("{}(0, 0){}", &what[..from], &what[to + 1..])
        }
        _ => what.clone(),
    };
    tree.iter().map(|(path, what)| (path.clone(), without(what))).collect()
}

fn without_token(
    mut tree: crate::support::broken_environment::Tree,
) -> crate::support::broken_environment::Tree {
    tree.remove(std::path::Path::new(TOKEN)).expect("there is a token");
    tree
}
