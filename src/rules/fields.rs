//! The fields of an advisory, read from YAML: an error in one has its line and its key. Pure.

use std::fmt::Display;
use std::str::FromStr as _;

use pep440_rs::VersionSpecifiers;
use serde::{Deserialize, Deserializer, Serializer, de};

use crate::yaml::{self, Scalar};

/// Parses a PEP 440 range.
///
/// # Errors
/// Returns an error if the text is no version range, or an empty one.
pub(crate) fn parse_specifiers(text: &str) -> Result<VersionSpecifiers, String> {
    match VersionSpecifiers::from_str(text) {
        Ok(specifiers) if !specifiers.is_empty() => Ok(specifiers),
        Ok(_) => Err("expected a version range such as \">=3.0.0\", found an empty one".into()),
        Err(error) => {
            let why = error.to_string();
            let first = why.lines().next().unwrap_or_default().trim_end_matches(':');
            Err(format!("{text:?} is no version range: {first}"))
        }
    }
}

pub(crate) fn read_specifiers<'de, D: Deserializer<'de>>(from: D) -> Result<VersionSpecifiers, D::Error> {
    read_parsed(from, parse_specifiers)
}

pub(crate) fn read_some_specifiers<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<VersionSpecifiers>, D::Error> {
    read_specifiers(from).map(Some)
}

pub(crate) fn write_some_text<S: Serializer>(value: &Option<impl Display>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

pub(crate) fn read_some_package<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    read_package(from).map(Some)
}

pub(crate) fn read_some_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    read_text(from).map(Some)
}

pub(crate) fn write_text<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn read_checked<'de, D: Deserializer<'de>>(
    from: D,
    expected: &str,
    is_valid: impl Fn(&str) -> bool,
) -> Result<String, D::Error> {
    read_parsed(from, |text| {
        if is_valid(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} is not {expected}")) }
    })
}

pub(crate) fn read_parsed<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    yaml::read_scalar(from, "a text", |scalar| match scalar {
        Scalar::Text(text) => parse(text).map_err(Some),
        _ => Err(None),
    })
}

pub(crate) fn read_text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    read_checked(from, "a text in one line", |text| {
        !text.trim().is_empty() && !text.contains(char::is_control)
    })
}

pub(crate) fn read_identifier<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter);
    read_checked(from, "an id of lower case letters, digits, - and .", |text| {
        !text.is_empty() && text.chars().all(allowed)
    })
}

pub(crate) fn read_package<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    read_checked(from, "a package's name, or name.*", |text| {
        let stem = text.strip_suffix(".*").unwrap_or(text);
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        stem.starts_with(|first: char| first.is_ascii_alphanumeric()) && stem.chars().all(allowed)
    })
}

pub(crate) fn read_references<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let references = Vec::<String>::deserialize(from)?;
    match references.iter().find(|reference| !reference.starts_with("https://")) {
        Some(other) => Err(de::Error::custom(format!("the reference {other:?} is no https URL"))),
        None if references.is_empty() => Err(de::Error::custom("references: at least one is needed")),
        None => Ok(references),
    }
}
