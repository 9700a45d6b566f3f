//! Installed distributions, as their metadata describes them. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::text::package_name::normalised;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The name, spelled as in the metadata.
    pub name: String,
    pub version: String,
    /// The path of its `.dist-info` or `.egg-info`.
    pub metadata: PathBuf,
    pub requires: Vec<String>,
}

/// The installed distributions by normalised name.
#[derive(Debug, Clone, Default)]
pub struct Packages {
    pub(crate) distributions: BTreeMap<String, Distribution>,
}

impl Packages {
    pub fn get(&self, name: &str) -> Option<&Distribution> {
        self.distributions.get(&normalised(name))
    }

    pub fn all(&self) -> &BTreeMap<String, Distribution> {
        &self.distributions
    }

    /// The versions by normalised name, which is how rules and reports identify packages.
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.distributions.iter().map(|(name, one)| (name.clone(), one.version.clone())).collect()
    }
}
