//! YAML text → a value, at a cost that is bounded by its length.
//!
//! The parser loads a whole document before its own limit of depth counts, and each token costs it
//! a look at every open flow collection; an alias costs what it stands for. So a text is scanned
//! for its depth first, in the way of the parser's own scanner (libyaml's `scanner.c`): what looks
//! like structure within quotes, comments and block scalars is none. What aliases would make of it
//! is weighed before it is made.

pub mod scanner;
pub mod size;

use serde::de::DeserializeOwned;
use serde::{Deserializer, de};
use std::fmt;

use crate::yaml::scanner::Scanner;
use crate::yaml::size::is_too_large;

/// Reads a document.
///
/// # Errors
/// Returns what is wrong with it, and where: no YAML, no `T`, or more than a parser should be given.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // A mark of the encoding is no part of the text, and the parser takes it for a document of its own.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if Scanner::new(text).scan()?.has_aliases && is_too_large(text) {
        return Err("its aliases stand for more than 4 MB".into());
    }
    serde_yaml::from_str(text).map_err(|error| describe(&error))
}

/// serde's words for the parts of a file, and those of the people who write one.
const IN_WORDS: [(&str, &str); 8] = [
    ("unknown field", "unknown key"),
    ("missing field", "missing key"),
    ("unknown variant", "unknown value"),
    ("expected field identifier", "expected a key"),
    ("expected a YAML tag starting with '!'", "expected a word"),
    ("expected path string", "expected a path"),
    ("expected a sequence", "expected a list"),
    ("invalid type: enum", "invalid type: tag"),
];

/// What is wrong with a YAML file, with its line.
fn describe(error: &serde_yaml::Error) -> String {
    IN_WORDS.iter().fold(error.to_string(), |text, (theirs, words)| text.replace(theirs, words))
}

/// A value that is no list and no mapping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    Text(&'a str),
    Bool(bool),
    Number(u64),
}

/// Reads a scalar by a function of one's own, inside the visitor: only there does a refusal get its
/// line and its key.
///
/// # Errors
/// Returns an error if it is no scalar, or `read` refuses it: in its own words, or with `None` in
/// those of `expected`.
pub fn scalar<'de, D: Deserializer<'de>, T>(
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
            (self.read)(scalar).map_err(|refusal| match refusal {
                Some(words) => E::custom(words),
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
    fn aliases_are_weighed() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            laughs.push_str(&["a", &level.to_string(), ": &a", &level.to_string(), " ["].concat());
            laughs.push_str(&([before.as_str(); 8].join(", ") + "]\n"));
        }
        let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(200_000), "*a,".repeat(100_000));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a,".repeat(100_000));
        // The parser has a limit of its own for one alias within the other.
        assert_eq!(parse::<Value>(&laughs).unwrap_err(), "repetition limit exceeded");
        for text in [wide, long] {
            assert_eq!(parse::<Value>(&text).unwrap_err(), "its aliases stand for more than 4 MB");
        }
        let value: Value = parse("a: &a {b: !Ref c}\nd: *a\n").unwrap();
        assert_eq!(value["a"], value["d"]);
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
