//! Escapes and wraps text that does not come from the program itself: logical ids, versions, paths, the
//! output of a child. A terminal would act on control characters in such text. Pure.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::Value;

/// Replaces control characters, and characters that change the direction of the text, with escapes such as
/// `\u{1b}`. Line feeds and tabs are kept.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_unsafe(letter) {
            safe.extend(letter.escape_unicode());
        } else {
            safe.push(letter);
        }
    }
    Cow::Owned(safe)
}

/// Joins the lines of a text into one line.
pub fn flatten(text: &str) -> Cow<'_, str> {
    if !text.contains(breaks_line) {
        return Cow::Borrowed(text);
    }
    let parts = text.split(breaks_line).map(str::trim).filter(|part| !part.is_empty());
    Cow::Owned(parts.collect::<Vec<_>>().join(" "))
}

/// Joins the lines of a text into one line, and escapes that line with [`escape`].
pub fn escape_line(text: &str) -> String {
    escape(&flatten(text)).into_owned()
}

/// Makes the first letter a capital, as at the beginning of a sentence.
pub fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Escapes a text with [`escape`], and wraps its words to lines of at most `width` characters; a longer word
/// gets its own line. Text in backquotes counts as one word, because a command that is broken across lines
/// cannot be pasted.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let text = escape(text);
    let is_paired = text.matches('`').count().is_multiple_of(2);
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(last) if is_quoted => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
        is_quoted ^= is_paired && word.matches('`').count() % 2 == 1;
    }
    fill(words.iter().map(String::as_str), " ", width)
}

/// Puts a text after a label, and wraps it as [`wrap`] does. Each line after the first is indented by the
/// width of the label.
pub fn wrap_behind(label: &str, text: &str, width: usize) -> String {
    let indent = label.chars().count();
    let lines = wrap(text, width.saturating_sub(indent));
    let text = label.to_owned() + &lines.join(&format!("\n{:indent$}", ""));
    text.trim_end().to_owned() + "\n"
}

/// Folds lines that are wider than `width`. If a line begins with `prefix`, so does each of its parts. Each
/// part is indented like the line, and each part after the first by two more characters.
pub fn fold(text: &str, prefix: &str, width: usize) -> String {
    let fold_line = |line: &str| {
        let (prefix, rest) = line.strip_prefix(prefix).map_or(("", line), |rest| (prefix, rest));
        if line.chars().count() <= width {
            return line.to_owned() + "\n";
        }
        let indent = rest.len() - rest.trim_start_matches(' ').len();
        let lines = wrap(rest, width.saturating_sub(prefix.len() + indent + 2));
        let lines = lines.iter().enumerate().map(|(index, line)| {
            let indent = if index == 0 { indent } else { indent + 2 };
            format!("{prefix}{:indent$}{line}\n", "")
        });
        lines.collect()
    };
    text.lines().map(fold_line).collect()
}

/// The name of a variant without fields, as serde writes it.
pub fn name_of(variant: impl Serialize) -> String {
    let name = serde_json::to_value(variant).ok();
    name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A number of things: `1 package`, `2 packages`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Quotes a text for a shell, if necessary.
pub fn quote_for_shell(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+@:,".contains(letter);
    let needs_none = !text.is_empty() && text.chars().all(is_plain);
    if needs_none { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Joins pieces with `joint` into lines of at most `width` characters. A longer piece gets its own line.
pub fn fill<'a>(pieces: impl Iterator<Item = &'a str>, joint: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.chars().count() + joint.len() + piece.chars().count() <= width => {
                line.push_str(joint);
                line.push_str(piece);
            }
            _ => lines.push(piece.to_owned()),
        }
    }
    lines
}

fn breaks_line(letter: char) -> bool {
    matches!(letter, '\n' | '\r' | '\t' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Whether a character is a bidirectional control (UAX #9), a line or paragraph separator (UAX #14), or a
/// control character (except line feed and tab).
pub fn is_unsafe(letter: char) -> bool {
    (letter.is_control() && letter != '\n' && letter != '\t')
        || matches!(letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A path as text. Bytes that are not UTF-8 are replaced, because JSON can contain only UTF-8, and a report
/// with an inexact path is better than no report.
pub fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// [`lossy`], for serde's `serialize_with`.
pub fn serialize_path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// [`lossy`] or null, for serde's `serialize_with`.
pub fn serialize_optional_path<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serialize_path(path, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        assert_eq!(escape("\x1b[31mred\u{9b}0m\u{7f}\r"), r"\u{1b}[31mred\u{9b}0m\u{7f}\u{d}");
        assert_eq!(escape("a\u{202e}b\u{2066}c\u{200f}"), r"a\u{202e}b\u{2066}c\u{200f}");
        assert_eq!(escape("ä → b\n\tc"), "ä → b\n\tc");
        assert_eq!(escape_line(" a\r\n  b\x1b\u{2028}c\n"), r"a b\u{1b} c");
    }

    #[test]
    fn lines_are_as_wide_as_asked_for_and_no_word_is_lost() {
        let text = "one two three four five sixsixsixsixsix seven";
        let lines = wrap(text, 10);
        assert_eq!(lines.join(" "), text);
        assert!(lines.iter().all(|line| line.len() <= 10 || !line.contains(' ')));
    }

    #[test]
    fn a_command_in_backquotes_is_not_broken() {
        assert_eq!(wrap("run `a b c d` or `e f`.", 9), ["run", "`a b c d`", "or `e f`."]);
        assert_eq!(wrap("one ` alone here", 9), ["one `", "alone", "here"]);
        assert_eq!(wrap_behind("fix  ", "one two three", 13), "fix  one two\n     three\n");
    }

    #[test]
    fn a_folded_line_keeps_its_prefix_and_indentation() {
        assert_eq!(fold("p: one two three\nshort\n", "p: ", 12), "p: one two\np:   three\nshort\n");
        assert_eq!(fold("  one two three\n", "p: ", 12), "  one two\n    three\n");
        assert_eq!(fold("", "p: ", 12), "");
    }

    proptest::proptest! {
        #[test]
        fn nothing_unsafe_is_left(text in proptest::collection::vec(proptest::char::any(), 0..50)) {
            let text = String::from_iter(text);
            proptest::prop_assert!(!escape(&text).contains(is_unsafe));
            let line = escape_line(&text);
            proptest::prop_assert!(!line.contains(|letter| is_unsafe(letter) || breaks_line(letter)));
        }
    }
}
