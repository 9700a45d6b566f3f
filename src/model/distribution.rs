//! Installed distributions, by their metadata. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::text::package_name::normalised;

/// An installed distribution, by its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The name as its metadata spells it.
    pub name: String,
    pub version: String,
    /// The path of its `.dist-info` or `.egg-info`.
    pub metadata: PathBuf,
    pub requires: Vec<String>,
}

/// The installed distributions by normalised name.
#[derive(Debug, Clone, Default)]
pub struct Packages {
    distributions: BTreeMap<String, Distribution>,
}

impl Packages {
    pub fn get(&self, name: &str) -> Option<&Distribution> {
        self.distributions.get(&normalised(name))
    }

    pub fn all(&self) -> &BTreeMap<String, Distribution> {
        &self.distributions
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Distribution)> {
        self.distributions.iter().map(|(name, distribution)| (name.as_str(), distribution))
    }

    /// The versions by normalised name, which is how rules and reports identify packages.
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.iter()
            .map(|(name, distribution)| (name.to_owned(), distribution.version.clone()))
            .collect::<BTreeMap<_, _>>()
    }
}

impl From<BTreeMap<String, Distribution>> for Packages {
    /// The keys are normalised names.
    fn from(distributions: BTreeMap<String, Distribution>) -> Self {
        Self { distributions }
    }
}
