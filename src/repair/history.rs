//! The repairs that can be undone for the environment at one path, the newest first. They were made in place
//! or outside the environment.

use std::io;
use std::path::{Path, PathBuf};

use crate::system::disk;

/// The maximum number of repairs that can be undone.
pub const MAX_UNDO: usize = 5;

/// The names of the journals of completed repairs in place begin with this.
pub const IN_PLACE_PREFIX: &str = "repair-";

/// Each repair outside the environment has a directory and a record, whose names begin with this. The record
/// is written last.
pub const ISOLATED_PREFIX: &str = "isolated-";

/// A repair that can be undone. Its id begins with the time of the repair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub id: String,
    pub is_isolated: bool,
    /// The journal of a repair in place, or the record of a repair outside the environment.
    pub file: PathBuf,
}

/// Lists the repairs that can be undone, the newest first. `directory` is the state directory of an
/// environment.
pub fn list(directory: &Path) -> Vec<Entry> {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    let mut found: Vec<Entry> = entries.filter_map(|entry| read_entry(&entry.path())).collect();
    found.sort_unstable();
    found.reverse();
    found
}

fn read_entry(file: &Path) -> Option<Entry> {
    let name = file.file_name()?.to_str()?.strip_suffix(".json")?;
    let in_place = name.strip_prefix(IN_PLACE_PREFIX);
    let id = in_place.or_else(|| name.strip_prefix(ISOLATED_PREFIX))?.to_owned();
    Some(Entry { id, is_isolated: in_place.is_none(), file: file.to_owned() })
}

/// The time of a repair; `None` if version 0.1.0 made it.
pub fn moment(entry: &Entry) -> Option<jiff::Timestamp> {
    let nanoseconds: i128 = entry.id.split('-').next()?.parse().ok()?;
    jiff::Timestamp::from_nanosecond(nanoseconds).ok().filter(|_| nanoseconds > 0)
}

/// Version 0.1.0 could undo only one repair in place and one repair outside the environment. Each pair is
/// the old name and the current name of a file or directory of these repairs. The id 0 makes both repairs
/// older than all others.
const OLDER: [(&str, &str); 3] =
    [("last.json", "repair-0.json"), ("isolated", "isolated-0"), ("isolated.json", "isolated-0.json")];

/// Renames the files of the repairs that version 0.1.0 made. The caller must hold the repair lock.
pub fn adopt_older(directory: &Path) -> io::Result<()> {
    for (from, to) in OLDER.map(|(from, to)| (directory.join(from), directory.join(to))) {
        if from.exists() && !to.exists() {
            disk::rename(&from, &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_newest_is_the_first_and_those_of_before_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in
            ["last.json", "isolated.json", "repair-1795989234597217142-9.json", "lock", "journal.json"]
        {
            fs::write(at(name), "").unwrap();
        }
        fs::write(at("isolated-1795989234597217143-10.json"), "").unwrap();
        fs::create_dir(at("isolated")).unwrap();
        adopt_older(directory.path()).unwrap();
        let listed = list(directory.path());
        let ids: Vec<_> = listed.iter().map(|entry| (entry.id.as_str(), entry.is_isolated)).collect();
        let expected =
            [("1795989234597217143-10", true), ("1795989234597217142-9", false), ("0", true), ("0", false)];
        assert_eq!(ids, expected);
        assert!(at("isolated-0").is_dir());
        assert_eq!(moment(&listed[1]).unwrap().to_string(), "2026-11-29T21:53:54.597217142Z");
        assert_eq!(moment(&listed[2]), None);
    }
}
