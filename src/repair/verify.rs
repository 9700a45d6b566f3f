//! The check of an environment after its packages were exchanged, and before the transaction is closed.

use std::collections::BTreeSet;

use crate::checker;
use crate::error::{Abort, Error};
use crate::repair::context::Repair;
use crate::repair::failpoint;
use crate::repair::hints::keep_beside;
use crate::repair::prove::{collect_unmet, is_met};
use crate::system::concurrently::concurrently;

/// Verifies that the environment is ready and that the repair has broken no requirement.
pub fn verify(repair: &Repair, edits: &[String], broken_before: &BTreeSet<String>) -> Result<(), Abort> {
    let next = format!("The environment was restored. {}", keep_beside(&repair.options.command()));
    let verification_error = |message: String| Error::repair(message, &next);
    failpoint::reach("verification").map_err(|error| verification_error(error.to_string()))?;
    let _step = repair.request.progress.step("verifying the repaired environment");
    let (checked, broken) = concurrently(
        || checker::check(repair.request, repair.target),
        || repair.installer.find_broken_requirements(),
    );
    let broken = broken.map_err(|abort| match abort {
        Abort::Error(error) => verification_error(error.to_string()).into(),
        interrupted @ Abort::Interrupted(_) => interrupted,
    })?;
    let newly_broken: Vec<&str> = broken.difference(broken_before).map(String::as_str).collect();
    if !newly_broken.is_empty() {
        return Err(verification_error(format!(
            "the repair would break other packages: {}",
            newly_broken.join("; ")
        ))
        .into());
    }
    let report = checked?.into_report()?;
    if is_met(repair, edits, &report) {
        return Ok(());
    }
    let unmet = collect_unmet(repair, edits, &report).join("; ");
    Err(verification_error(format!("the repaired environment still fails the check: {unmet}")).into())
}
