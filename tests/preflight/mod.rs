//! `preflight check`, `where` and `advisories`; help, usage errors, and the output on a terminal.

mod advisories; // the list of advisories, and the user's own advisories
mod location; // `preflight where`
mod report; // the report of a check, for people and as JSON
mod terminal; // width, colour, control characters, how much is printed, and a stdout that fails
mod usage; // help, wrong usage, and the forms of an error

use serde_json::Value;

use crate::support::run::Run;
use crate::support::sandbox::Sandbox;

/// An advisory of the user's own, on a package that every fake environment has.
pub(crate) const ADVISORY: &str = "\
- id: own-advisory
  title: The core package is not to be used here
  level: ERROR
  pcluster: '>=3.0'
  package: aws-cdk.core
  affected: '<2'
  effect: is not allowed in this company
  cost: It would cost a talk with the platform team.
  fix:
    packages: aws-cdk.*
    upgrade: '>=2'
    downgrade: '<1'
  references: ['https://example.com/own']
";

fn check(sandbox: &Sandbox) -> Run {
    sandbox.pcluster(["preflight", "check"]).run()
}

fn json_of(sandbox: &Sandbox) -> (Value, Run) {
    let run = sandbox.pcluster(["preflight", "--format", "json"]).run();
    (serde_json::from_slice(&run.stdout).unwrap(), run)
}
