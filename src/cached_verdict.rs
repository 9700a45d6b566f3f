//! A verdict of ready as the cache holds it.

use serde::{Deserialize, Serialize};

use crate::rules::{Finding, Remedy};

/// A verdict of ready in the cache: the findings of the template, of which none is an ERROR.
#[derive(Debug, Serialize, Deserialize)]
pub struct CachedVerdict {
    findings: Vec<Finding>,
    /// What the JSON of the findings leaves out, for each of them.
    unwritten: Vec<(Option<Remedy>, bool)>,
}

impl CachedVerdict {
    #[must_use]
    pub fn new(findings: &[Finding]) -> Self {
        let unwritten = |finding: &Finding| {
            (finding.fix.as_ref().and_then(|fix| fix.remedy.clone()), finding.is_told_by_guard)
        };
        Self { findings: findings.to_vec(), unwritten: findings.iter().map(unwritten).collect() }
    }

    #[must_use]
    pub fn into_findings(self) -> Vec<Finding> {
        let findings = self.findings.into_iter().zip(self.unwritten);
        let complete = findings.map(|(mut finding, (remedy, is_told))| {
            finding.is_told_by_guard = is_told;
            if let Some(fix) = &mut finding.fix {
                fix.remedy = remedy;
            }
            finding
        });
        complete.collect()
    }
}
