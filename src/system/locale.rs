//! What the locale says of the characters that a terminal shows.

use std::env;

/// Whether it shows more than ASCII: whether the locale is one of UTF-8.
pub fn shows_unicode() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter();
    let locale = names.filter_map(env::var_os).find(|value| !value.is_empty()).unwrap_or_default();
    is_utf8(&locale.to_string_lossy())
}

/// The codeset stands behind a dot: `de_DE.UTF-8`, `C.utf8`. On macOS `LC_CTYPE` may be the codeset alone.
fn is_utf8(locale: &str) -> bool {
    let codeset = locale.split('@').next().unwrap_or_default().rsplit('.').next().unwrap_or_default();
    ["utf-8", "utf8"].iter().any(|name| codeset.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codeset_decides() {
        for locale in ["de_DE.UTF-8", "C.utf8", "en_US.UTF-8@x", "UTF-8"] {
            assert!(is_utf8(locale), "{locale}");
        }
        for locale in ["", "C", "POSIX", "de_DE.ISO-8859-1", "utf-8_DE.latin1", "de_DE@euro"] {
            assert!(!is_utf8(locale), "{locale}");
        }
    }
}
