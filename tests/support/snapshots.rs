//! Snapshots of what users see, in tests/snapshots/<module>/.

use std::fs;
use std::panic::Location;
use std::path::{Path, PathBuf};

use snapbox::assert::Action;
use snapbox::data::DataFormat;
use snapbox::{Assert, Data};

use crate::support::machine::real_python;
use crate::support::sandbox::PROGRAM;

/// Compares `text` with a file below tests/snapshots. `snapshot` is the file's name in the directory of the
/// calling module, or `module/file`. With `SNAPSHOTS=overwrite` in the environment, writes the file instead.
#[track_caller]
pub(crate) fn matches(snapshot: &str, text: &str, sandbox: &Path, details: impl FnOnce() -> String) {
    let text = redacted(text, sandbox);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(below(snapshot));
    let assert = Assert::new().action_env("SNAPSHOTS").normalize_paths(false);
    let expected = Data::read_from(&file, Some(DataFormat::Text));
    let Err(difference) = assert.try_eq(Some(&snapshot), text.clone().into(), expected) else { return };
    if assert.selected_action() == Action::Overwrite {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    } else {
        panic!("SNAPSHOTS=overwrite renews {}:\n{difference}\n{}", file.display(), details());
    }
}

/// The path of a snapshot. If a test in tests/repair.rs or below tests/repair/ names `fix.txt`, the path is
/// `repair/fix.txt`.
#[track_caller]
fn below(snapshot: &str) -> PathBuf {
    let caller = Path::new(Location::caller().file()).strip_prefix("tests").unwrap();
    let module = Path::new(caller.components().next().unwrap().as_os_str()).with_extension("");
    if snapshot.contains('/') { snapshot.into() } else { module.join(snapshot) }
}

/// Redacts what differs from machine to machine, from run to run, and from release to release.
pub(crate) fn redacted(text: &str, sandbox: &Path) -> String {
    let text = text.replace(sandbox.join(PROGRAM).to_str().unwrap(), "[BINARY]");
    let text = text.replace(sandbox.to_str().unwrap(), "[SANDBOX]");
    let text = text.replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
    let text = text.replace(real_python().to_str().unwrap(), "[PYTHON]");
    text.split_inclusive('\n').map(redacted_line).collect()
}

fn redacted_line(line: &str) -> String {
    let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
    let indent = &line[..line.len() - line.trim_start().len()];
    let line = if line.trim_start().starts_with("\"durationMs\": ") {
        format!("{indent}\"durationMs\": [DURATION],")
    } else {
        without_seconds(without_duration(line))
    };
    let random = [
        "pcluster-shim-",
        "pcluster-shim:",
        "environments/",
        "overlay-",
        "snapshot-",
        "/repair-",
        "/isolated-",
    ];
    random.into_iter().fold(line, |line, prefix| without_random(&line, prefix)) + end
}

/// Redacts the letters and digits that follow the prefix, because they differ from run to run.
fn without_random(line: &str, prefix: &str) -> String {
    // A sentinel has `:` between its two numbers. The snapshot, the journal and the overlay of a repair have
    // `-` between the time and the PID in their names.
    let separator = match prefix {
        "pcluster-shim:" => Some(':'),
        "snapshot-" | "/repair-" | "/isolated-" => Some('-'),
        _ => None,
    };
    let random = |letter: char| letter.is_ascii_alphanumeric() || Some(letter) == separator;
    let mut pieces = line.split(prefix);
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|letter| !random(letter)).unwrap_or(piece.len());
        text += prefix;
        text += if end > 0 { "[RANDOM]" } else { "" };
        text += &piece[end..];
    }
    text
}

/// Redacts ` time="0.012"` in XML.
fn without_seconds(line: &str) -> String {
    let mut pieces = line.split(" time=\"");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        text + " time=\"[SECONDS]"
            + piece.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.')
    })
}

/// Removes the time from `  template   passed     0.4 s`: a time is shown only if the check took long.
fn without_duration(line: &str) -> &str {
    let Some(rest) = line.strip_suffix(" s") else { return line };
    let digits = rest.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    if digits.len() < rest.len() && digits.ends_with(' ') { digits.trim_end() } else { line }
}
