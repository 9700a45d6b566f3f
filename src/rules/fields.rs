//! The fields of an advisory as they are read from YAML.

use std::fmt::Display;
use std::str::FromStr as _;

use pep440_rs::VersionSpecifiers;
use serde::{Deserialize, Deserializer, Serializer, de};

use crate::yaml::{self, Scalar};

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

pub(crate) fn specifiers<'de, D: Deserializer<'de>>(from: D) -> Result<VersionSpecifiers, D::Error> {
    parsed(from, parse_specifiers)
}

pub(crate) fn as_text<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn checked<'de, D: Deserializer<'de>>(
    from: D,
    expected: &str,
    valid: impl Fn(&str) -> bool,
) -> Result<String, D::Error> {
    parsed(
        from,
        |text| if valid(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} is not {expected}")) },
    )
}

pub(crate) fn parsed<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    yaml::scalar(from, "a text", |scalar| match scalar {
        Scalar::Text(text) => parse(text).map_err(Some),
        _ => Err(None),
    })
}

pub(crate) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, "a text in one line", |text| !text.trim().is_empty() && !text.contains(char::is_control))
}

pub(crate) fn identifier<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter);
    checked(from, "an id of lower case letters, digits, - and .", |text| {
        !text.is_empty() && text.chars().all(allowed)
    })
}

pub(crate) fn package<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, "a package's name, or name.*", |text| {
        let stem = text.strip_suffix(".*").unwrap_or(text);
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        stem.starts_with(|first: char| first.is_ascii_alphanumeric()) && stem.chars().all(allowed)
    })
}

pub(crate) fn references<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let references = Vec::<String>::deserialize(from)?;
    match references.iter().find(|reference| !reference.starts_with("https://")) {
        Some(other) => Err(de::Error::custom(format!("the reference {other:?} is no https URL"))),
        None if references.is_empty() => Err(de::Error::custom("references: at least one is needed")),
        None => Ok(references),
    }
}
