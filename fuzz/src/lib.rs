//! What the fuzz targets share: the input as a target takes it, and what holds for every text that is shown.

use std::borrow::Cow;
use std::sync::LazyLock;

use pcluster_shim::text::printable::escape;

/// The length in bytes up to which inputs are repeated. Some readers take time that grows with the square of
/// the length. Inputs as short as libFuzzer prefers do not show that.
static REPEATED: LazyLock<Option<usize>> = LazyLock::new(|| std::env::var("FUZZ_REPEAT").ok()?.parse().ok());

/// The bytes that a target reads.
#[must_use]
pub fn input(bytes: &[u8]) -> Cow<'_, [u8]> {
    match *REPEATED {
        Some(length) if !bytes.is_empty() => Cow::Owned(bytes.repeat(length.div_ceil(bytes.len()))),
        _ => Cow::Borrowed(bytes),
    }
}

/// The parts of an input, with ASCII's record separator between them. No reader gives that character a
/// meaning. Parts that are missing are empty.
#[must_use]
pub fn split<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut parts = bytes.splitn(N, |byte| *byte == 0x1e);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Fails if a terminal acts on a text.
///
/// # Panics
/// Panics if it has control characters other than line feeds and tabs, or bidirectional controls.
pub fn assert_safe(text: &str) {
    assert_eq!(escape(text), text, "it is not safe for a terminal");
}

/// Fails if a text is more than one line, or unsafe.
///
/// # Panics
/// Panics if it has any control character or bidirectional control.
pub fn assert_line(text: &str) {
    assert_safe(text);
    assert!(!text.contains(char::is_control), "it is no line: {text:?}");
}
