//! The console scripts of packages that move. They lie outside the directory of packages, and start a
//! function by its name, so an exchange leaves them as they are: those of the old package are the new one's,
//! where both name the same function. Scripts that only the new one has are not installed.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::environment::packages::Distribution;
use crate::environment::record::record_path;
use crate::system::files;

/// The name of the script that a path of RECORD means: `../../../bin/NAME`, or `bin/NAME` where the package
/// was installed into a directory of its own.
fn script_name(path: &str) -> Option<&str> {
    let parts: Vec<Component> = Path::new(path).components().collect();
    let (Component::Normal(name), above) = parts.split_last()? else { return None };
    let (Component::Normal(directory), above) = above.split_last()? else { return None };
    let leads_up = above.iter().all(|part| *part == Component::ParentDir);
    if *directory == "bin" && leads_up { name.to_str() } else { None }
}

/// Whether a path of RECORD is a console script of the distribution.
#[must_use]
pub fn is_console_script(distribution: &Distribution, path: &str) -> bool {
    script_name(path).is_some_and(|name| read_entry_points(distribution).contains_key(name))
}

/// Whether a path of RECORD is a script of the old distribution that the new one has too.
#[must_use]
pub fn is_shared_script(old: &Distribution, new: &Distribution, path: &str) -> bool {
    let Some(name) = script_name(path) else { return false };
    let function = |of| read_entry_points(of).remove(name);
    function(old).is_some_and(|function_of_old| function(new) == Some(function_of_old))
}

/// The lines of the old RECORD that name the scripts, for the new one: an uninstallation removes them by it.
pub fn keep_script_lines(old_record: &str) -> impl Iterator<Item = &str> {
    old_record.lines().filter(|line| {
        let path = record_path(line);
        path.starts_with("..") && script_name(&path).is_some()
    })
}

/// The console scripts of a distribution, and the function that each starts, from `entry_points.txt`.
fn read_entry_points(distribution: &Distribution) -> BTreeMap<String, String> {
    let text = files::read_to_string(&distribution.metadata.join("entry_points.txt")).unwrap_or_default();
    let mut section = String::new();
    let mut scripts = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            line.clone_into(&mut section);
        } else if let (true, Some((name, function))) = (section == "[console_scripts]", line.split_once('='))
        {
            scripts.insert(name.trim().to_owned(), function.replace(' ', ""));
        }
    }
    scripts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn distribution(root: &Path, version: &str, entry_points: &str) -> Distribution {
        let metadata = root.join(format!("flask-{version}.dist-info"));
        fs::create_dir(&metadata).unwrap();
        fs::write(metadata.join("entry_points.txt"), entry_points).unwrap();
        Distribution { name: "flask".into(), version: version.into(), metadata, requires: Vec::new() }
    }

    #[test]
    fn a_script_is_shared_where_both_start_one_function() {
        let root = tempfile::tempdir().unwrap();
        let old =
            distribution(root.path(), "3", "[x]\nother = a:b\n[console_scripts]\nflask = flask.cli:main\n");
        let new = distribution(root.path(), "2", "[console_scripts]\nflask=flask.cli:main\nmore = a:b\n");
        let other = distribution(root.path(), "1", "[console_scripts]\nflask = flask.cli:run\n");
        assert!(is_shared_script(&old, &new, "../../../bin/flask"));
        assert!(!is_shared_script(&old, &other, "../../../bin/flask"));
        for path in
            ["../../../share/flask", "../../../bin/more", "../../../bin/x/flask", "flask", "../bin/../flask"]
        {
            assert!(!is_shared_script(&old, &new, path), "{path}");
        }
        assert!(is_console_script(&new, "bin/flask") && is_console_script(&new, "../../bin/more"));
        assert!(!is_console_script(&old, "bin/other"));
    }

    #[test]
    fn the_lines_of_scripts_are_kept() {
        let record = "a.py,sha256=x,1\n../../../bin/flask,sha256=y,2\nbin/tool.py,,\n../../../etc/x,,\n";
        assert_eq!(keep_script_lines(record).collect::<Vec<_>>(), ["../../../bin/flask,sha256=y,2"]);
    }
}
