//! Reads the fields of an advisory from YAML. An error reports the line and the key of the field. Pure.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr as _;

use jiff::civil::Date;
use pep440_rs::VersionSpecifiers;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serializer, de};

use crate::text::yaml::{self, Scalar};

/// Parses a PEP 440 range.
pub(crate) fn parse_specifiers(text: &str) -> Result<VersionSpecifiers, String> {
    match VersionSpecifiers::from_str(text) {
        Ok(specifiers) if !specifiers.is_empty() => Ok(specifiers),
        Ok(_) => Err("expected a version range such as \">=3.0.0\", found an empty one".into()),
        Err(error) => {
            let why = error.to_string();
            let first = why.lines().next().unwrap_or_default().trim_end_matches(':');
            Err(format!("{text:?} is not a version range: {first}"))
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

#[expect(clippy::ref_option, reason = "serde hands a reference to the field")]
pub(crate) fn write_some_text<S: Serializer>(value: &Option<impl Display>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

pub(crate) fn read_some_package<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    read_package(from).map(Some)
}

pub(crate) fn read_some_date<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Date>, D::Error> {
    read_parsed(from, |text| match text.parse::<Date>() {
        Ok(date) if date.to_string() == text => Ok(Some(date)),
        _ => Err(format!("{text:?} is not a date such as \"2026-08-31\"")),
    })
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
    yaml::read_scalar(from, "a string", |scalar| match scalar {
        Scalar::Text(text) => parse(text).map_err(Some),
        _ => Err(None),
    })
}

pub(crate) fn read_text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    read_checked(from, "a single line of text", |text| {
        !text.trim().is_empty() && !text.contains(char::is_control)
    })
}

/// Reads a mapping and then checks it as a whole. An error of the check has the line of the mapping, unlike
/// an error from serde's `try_from`.
pub(crate) fn read_checked_mapping<'de, W, T, D>(from: D, expected: &'static str) -> Result<T, D::Error>
where
    W: Deserialize<'de>,
    T: TryFrom<W, Error: Display>,
    D: Deserializer<'de>,
{
    struct Mapping<W, T>(&'static str, PhantomData<(W, T)>);

    impl<'de, W: Deserialize<'de>, T: TryFrom<W, Error: Display>> Visitor<'de> for Mapping<W, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            let written = W::deserialize(MapAccessDeserializer::new(map))?;
            T::try_from(written).map_err(de::Error::custom)
        }
    }

    from.deserialize_map(Mapping::<W, T>(expected, PhantomData))
}

pub(crate) fn read_identifier<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let allowed =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter);
    read_checked(from, "an id made of lowercase letters, digits, `-` and `.`", |text| {
        !text.is_empty() && text.chars().all(allowed)
    })
}

pub(crate) fn read_package<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    read_checked(from, "a package name or `name.*`", |text| {
        let stem = text.strip_suffix(".*").unwrap_or(text);
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        stem.starts_with(|first: char| first.is_ascii_alphanumeric()) && stem.chars().all(allowed)
    })
}

pub(crate) fn read_references<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let references = Vec::<String>::deserialize(from)?;
    match references.iter().find(|reference| !reference.starts_with("https://")) {
        Some(other) => Err(de::Error::custom(format!("the reference {other:?} is not an https URL"))),
        None if references.is_empty() => Err(de::Error::custom("references: at least one is required")),
        None => Ok(references),
    }
}
