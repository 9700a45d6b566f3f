//! What is to be checked: a real pcluster, with the settings and the advisories that apply.

use serde_json::Value;

use crate::cli::settings::Settings;
use crate::environment::locate::Real;
use crate::environment::synthesis::Call;
use crate::error::Error;
use crate::progress::Progress;
use crate::rules::advisories::{Advisory, file};
use crate::system::trust;

/// What is to be checked, and to what extent.
#[derive(Debug, Clone)]
pub struct CheckRequest<'a> {
    pub real: &'a Real,
    pub settings: &'a Settings,
    pub advisories: &'a [Advisory],
    pub call: Call,
    /// Whether to build a template. With `--no-synth`, this is false.
    pub synthesizes: bool,
    pub parent: ParentSource,
    pub progress: Progress,
}

/// The source of the facts about the parent image.
#[derive(Debug, Clone)]
pub enum ParentSource {
    NotAsked,
    Aws,
    /// The images in an output of `aws ec2 describe-images`.
    File(Vec<Value>),
}

impl CheckRequest<'_> {
    /// Whether the facts about the parent image are requested.
    pub fn asks_for_parent(&self) -> bool {
        !matches!(self.parent, ParentSource::NotAsked)
    }

    /// The images that are known without asking AWS.
    pub fn known_images(&self) -> &[Value] {
        match &self.parent {
            ParentSource::File(images) => images,
            ParentSource::NotAsked | ParentSource::Aws => &[],
        }
    }
}

/// Reads the built-in advisories and those in the files that the settings name. Returns them, and an error
/// for each file that could not be read.
pub fn read_advisories(settings: &Settings) -> (Vec<Advisory>, Vec<Error>) {
    let (mut advisories, mut errors) = (file::built_in(), Vec::new());
    for file in &settings.advisories {
        let malformed = |message| Error::BadFile { file: file.clone(), message };
        let text = trust::read_to_string(file).map_err(|error| trust::unreadable(file, &error));
        match text.and_then(|text| file::read(&text).map_err(malformed)) {
            Ok(more) => advisories.extend(more),
            Err(error) => errors.push(error),
        }
    }
    (advisories, errors)
}
