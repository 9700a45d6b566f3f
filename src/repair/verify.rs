//! The repaired environment itself, checked once more before its transaction is closed.

use crate::checker;
use crate::error::{Abort, Error, RepairStep};
use crate::repair::context::{BrokenRequirements, Repair};
use crate::repair::failpoint;
use crate::repair::prove::expect_report;
use crate::report::Verdict;
use crate::system::concurrently::concurrently;

/// Verifies that the environment is ready and no requirement is newly broken.
///
/// # Errors
/// Returns an error if one of them is not so, or a signal came.
pub fn verify(repair: &Repair, broken_before: &BrokenRequirements) -> Result<(), Abort> {
    let failed = |message: String| {
        Error::repair(RepairStep::Verification, message, "The environment was put back as it was.")
    };
    failpoint::reach(RepairStep::Verification).map_err(|error| failed(error.to_string()))?;
    let _step = repair.request.progress.step("verifying the repaired environment");
    let (checked, broken) = concurrently(
        || checker::check(repair.request, repair.target),
        || repair.broken_requirements(RepairStep::Verification),
    );
    let broken = broken?;
    let newly: Vec<&str> = broken.difference(broken_before).map(String::as_str).collect();
    if !newly.is_empty() {
        return Err(failed(newly.join("; ")).into());
    }
    let report = expect_report(checked?)?;
    if report.verdict == Verdict::Ready {
        return Ok(());
    }
    Err(failed(report.reasons().join("; ")).into())
}
