//! Reads YAML at a cost bounded by the length of the text. Pure.
//!
//! For each token, the parser looks at every open bracket. The parser has a depth limit of its own, but
//! applies that limit only after it has read all tokens. An alias costs as much as what it refers to. So
//! before loading a text, we count the brackets that are open at the same time, and compute the size of the
//! document with all aliases replaced ([`size`]).

pub mod size;

use serde::de::DeserializeOwned;
use serde::{Deserializer, de};
use std::fmt;

use crate::text::yaml::size::is_too_large;

pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // A byte order mark isn't part of the text, but the parser would treat it as a separate document.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if count_open_brackets(text) > MAX_BRACKETS {
        return Err(format!("brackets are nested more than {MAX_BRACKETS} deep"));
    }
    if text.contains('*') && is_too_large(text) {
        return Err("aliases expand to more than 2 MB".into());
    }
    serde_yaml::from_str(text).map_err(|error| describe_error(&error))
}

/// No document that people write has so many brackets open at once. With 150,000 open brackets, the parser
/// takes a minute.
const MAX_BRACKETS: usize = 1000;

/// The largest number of brackets in a text that are open at the same time. Brackets in quotes and comments
/// count too, but they are usually closed in the same quotes or comment.
fn count_open_brackets(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// serde's terms in error messages, and the terms of YAML and config files that replace them.
const YAML_TERMS: [(&str, &str); 9] = [
    ("unknown field", "unknown key"),
    ("missing field", "missing key"),
    ("unknown variant", "unknown value"),
    ("expected field identifier", "expected a key"),
    ("expected a YAML tag starting with '!'", "expected a word"),
    ("expected path string", "expected a path"),
    ("expected a sequence", "expected a list"),
    ("invalid type: sequence", "invalid type: list"),
    ("invalid type: enum", "invalid type: tag"),
];

/// Formats an error in the terms of YAML, with its place in parentheses.
fn describe_error(error: &serde_yaml::Error) -> String {
    let text = YAML_TERMS.iter().fold(error.to_string(), |text, (serde, yaml)| text.replace(serde, yaml));
    let place = error.location().map(|place| (place.line(), place.column()));
    let what =
        place.and_then(|(line, column)| text.strip_suffix(&format!(" at line {line} column {column}")));
    match (what, place) {
        (Some(what), Some((line, column))) => format!("{what} (line {line}, column {column})"),
        _ => text,
    }
}

/// A value that is neither a list nor a mapping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    Text(&'a str),
    Bool(bool),
    Number(u64),
}

/// Reads a scalar with `read`. The visitor calls `read`, because only errors that a visitor raises have a
/// line and a key.
///
/// # Errors
/// Returns an error if the value isn't a scalar, or if `read` fails. If `read` gives no message
/// (`Err(None)`), the message names what is `expected`.
pub fn read_scalar<'de, D: Deserializer<'de>, T>(
    from: D,
    expected: &str,
    read: impl FnOnce(Scalar) -> Result<T, Option<String>>,
) -> Result<T, D::Error> {
    struct Reader<'a, F> {
        expected: &'a str,
        read: F,
    }

    impl<T, F: FnOnce(Scalar) -> Result<T, Option<String>>> Reader<'_, F> {
        fn read<E: de::Error>(self, scalar: Scalar, found: de::Unexpected) -> Result<T, E> {
            (self.read)(scalar).map_err(|error| match error {
                Some(message) => E::custom(message),
                None => E::invalid_value(found, &self.expected),
            })
        }
    }

    impl<T, F: FnOnce(Scalar) -> Result<T, Option<String>>> de::Visitor<'_> for Reader<'_, F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            self.read(Scalar::Text(text), de::Unexpected::Str(text))
        }

        fn visit_bool<E: de::Error>(self, flag: bool) -> Result<T, E> {
            self.read(Scalar::Bool(flag), de::Unexpected::Bool(flag))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            self.read(Scalar::Number(number), de::Unexpected::Unsigned(number))
        }
    }

    from.deserialize_any(Reader { expected, read })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_yaml::Value;

    #[test]
    fn the_size_of_aliases_is_limited() {
        let mut nested = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            nested.push_str(&["a", &level.to_string(), ": &a", &level.to_string(), " ["].concat());
            nested.push_str(&([before.as_str(); 8].join(", ") + "]\n"));
        }
        let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(200_000), "*a,".repeat(100_000));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a,".repeat(100_000));
        // The parser has its own limit for aliases within aliases.
        assert_eq!(parse::<Value>(&nested).unwrap_err(), "repetition limit exceeded");
        for text in [wide, long] {
            assert_eq!(parse::<Value>(&text).unwrap_err(), "aliases expand to more than 2 MB");
        }
        let expanded = |megabytes: usize| {
            format!("a: &a {}\nb: [{}]\n", "x".repeat(1000), "*a,".repeat(1000 * megabytes))
        };
        assert!(parse::<Value>(&expanded(1)).is_ok());
        assert!(parse::<Value>(&expanded(3)).is_err());
        let value: Value = parse("a: &a {b: !Ref c}\nd: *a\n").unwrap();
        assert_eq!(value["a"], value["d"]);
    }

    #[test]
    fn brackets_are_refused_before_they_cost_anything() {
        for (many, few) in [("[", "]"), ("{a: ", "}"), ("[{\"a\": ", "}]")] {
            let deep = many.repeat(200_000);
            assert_eq!(parse::<Value>(&deep).unwrap_err(), "brackets are nested more than 1000 deep");
            let wide = format!("- {many}b{few}\n").repeat(5000);
            assert!(parse::<Value>(&wide).is_ok(), "{many}");
        }
    }

    /// A document of 1 MB without aliases is not too large, even if it contains an asterisk.
    #[test]
    fn an_asterisk_is_no_alias() {
        let text = format!("[{}'*']", "1,".repeat(520_000));
        assert!(parse::<Value>(&text).is_ok());
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        assert_eq!(parse::<Value>("\u{feff}a: b\n"), parse("a: b\n"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = parse::<Value>(&text);
        }
    }
}
