//! What the fuzz targets share: how a target reads its input, and assertions about the texts that are shown.

use std::borrow::Cow;
use std::sync::LazyLock;

use pcluster_shim::text::printable::escape;

/// The value of the variable `FUZZ_REPEAT`: each input is repeated until it has at least this many bytes.
/// libFuzzer prefers short inputs, and short inputs do not show whether the time of a parser grows with the
/// square of the input's length.
static REPEATED: LazyLock<Option<usize>> = LazyLock::new(|| std::env::var("FUZZ_REPEAT").ok()?.parse().ok());

/// The bytes that a target reads: the input, repeated if `FUZZ_REPEAT` is set.
#[must_use]
pub fn input(bytes: &[u8]) -> Cow<'_, [u8]> {
    match *REPEATED {
        Some(length) if !bytes.is_empty() => Cow::Owned(bytes.repeat(length.div_ceil(bytes.len()))),
        _ => Cow::Borrowed(bytes),
    }
}

/// Splits an input into its parts, at ASCII's record separator. This character has no meaning in any of the
/// formats that the parts have. Missing parts are empty.
#[must_use]
pub fn split<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut parts = bytes.splitn(N, |byte| *byte == 0x1e);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Asserts that a text is safe for a terminal.
///
/// # Panics
/// Panics if [`escape`] would change the text.
pub fn assert_safe(text: &str) {
    assert_eq!(escape(text), text, "it is not safe for a terminal");
}

/// Asserts that a text is a single line, and safe for a terminal.
///
/// # Panics
/// Panics if [`escape`] would change the text, or if the text has a line feed or a tab.
pub fn assert_line(text: &str) {
    assert_safe(text);
    assert!(!text.contains(char::is_control), "it is no line: {text:?}");
}
