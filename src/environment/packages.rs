//! The installed distributions on a `sys.path`, as `importlib.metadata` finds them: if several distributions
//! have the same normalised name, the first one on `sys.path` counts. No Python is started.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::model::distribution::{Distribution, Packages};
use crate::system::files;
use crate::text::package_name::normalised;

/// At most this much of a metadata file is read. The header comes first; a description of any length
/// can follow.
const MAX_HEADER: u64 = 1 << 20;

/// Reads the distributions in the existing directories of `sys_path`.
pub fn read_installed(sys_path: &[PathBuf]) -> Packages {
    let mut distributions = BTreeMap::new();
    for directory in sys_path {
        for distribution in read_directory(directory) {
            distributions.entry(normalised(&distribution.name)).or_insert(distribution);
        }
    }
    Packages { distributions }
}

/// Finds one distribution, without reading the others.
pub fn find_distribution(sys_path: &[PathBuf], name: &str) -> Option<Distribution> {
    let name = normalised(name);
    // The metadata's file name begins with the distribution's name, but the installer may have spelled that
    // name differently.
    let may_be = |file_name: &OsStr| {
        let file_name = file_name.to_string_lossy();
        normalised(&file_name).strip_prefix(&name).is_some_and(|rest| rest.starts_with('-'))
    };
    sys_path.iter().find_map(|directory| {
        let found = find_metadata(directory).filter(|file_name| may_be(file_name));
        found
            .filter_map(|file_name| read_distribution(directory.join(file_name)))
            .find(|found| normalised(&found.name) == name)
    })
}

/// The program that installed a distribution, such as `pip`, `uv` or `conda`, as the INSTALLER file names it.
pub fn read_installer(distribution: &Distribution) -> Option<String> {
    let text = files::read_to_string(&distribution.metadata.join("INSTALLER")).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Reads the distributions of one directory, in the order in which the system lists them, as Python does.
fn read_directory(directory: &Path) -> Vec<Distribution> {
    if directory.extension() == Some(OsStr::new("egg")) {
        return read_distribution(directory.join("EGG-INFO")).into_iter().collect();
    }
    find_metadata(directory).filter_map(|name| read_distribution(directory.join(name))).collect()
}

/// The names of the metadata files and directories in a directory. Their endings may be in upper or lower
/// case. An egg is left out: it counts only if its own path is on `sys.path`.
fn find_metadata(directory: &Path) -> impl Iterator<Item = OsString> {
    let names = directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| {
        let name = name.as_encoded_bytes();
        let ending = &name[name.len().saturating_sub(".dist-info".len())..];
        ending.eq_ignore_ascii_case(b".dist-info")
            || ending.get(1..).is_some_and(|ending| ending.eq_ignore_ascii_case(b".egg-info"))
    })
}

/// Reads a distribution. `None` for the remains of an interrupted installation: a directory without metadata,
/// or with a name that begins with `~`. pip gives such a name to a directory that it is about to remove.
fn read_distribution(path: PathBuf) -> Option<Distribution> {
    if path.file_name()?.as_encoded_bytes().starts_with(b"~") {
        return None;
    }
    let read = |file: &str| read_header(&path.join(file)).filter(|header| !header.is_empty());
    let header = read("METADATA").or_else(|| read("PKG-INFO")).or_else(|| read_header(&path))?;
    parse_metadata(&header, path)
}

/// Reads the header of a METADATA or PKG-INFO file as Python does (importlib.metadata, email.parser): a line
/// that isn't a field ends the header, an indented line continues the field before it, and if a file has
/// several names or versions, the first one counts. `None` if the header has no name or no version. `path` is
/// that of the `.dist-info` or `.egg-info`.
pub fn parse_metadata(metadata: &str, path: PathBuf) -> Option<Distribution> {
    const FIELDS: [&str; 3] = ["name", "version", "requires-dist"];
    let mut fields: [Vec<String>; 3] = Default::default();
    let mut last = None;
    // As in importlib.metadata's parser, a carriage return ends a line too. Otherwise a requirement could
    // contain a carriage return, and the text after the carriage return would be a separate line of a
    // requirements file.
    let metadata = metadata.replace("\r\n", "\n").replace('\r', "\n");
    for line in metadata.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = last.and_then(|field: usize| fields[field].last_mut()) {
                // The lines of a value are joined into one, because the value may become a line of a
                // requirements file.
                value.push(' ');
                value.push_str(line.trim());
            }
            continue;
        }
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_graphic());
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_name(name)) else { break };
        last = FIELDS.iter().position(|field| name.eq_ignore_ascii_case(field));
        if let Some(field) = last {
            fields[field].push(value.to_owned());
        }
    }
    let [names, versions, requires] = fields;
    let first = |values: Vec<String>| values.first().map(|value| value.trim().to_owned());
    let requires = requires.iter().map(|value| value.trim().to_owned()).collect();
    Some(Distribution { name: first(names)?, version: first(versions)?, metadata: path, requires })
}

/// Reads the header of a metadata file, without the description, which is most of the file.
fn read_header(path: &Path) -> Option<String> {
    let mut file = files::open(path).ok()?;
    let mut header = vec![0; 4096];
    let read = file.read(&mut header).ok()?;
    header.truncate(read);
    if read == 4096 && memchr::memmem::find(&header, b"\n\n").is_none() {
        file.take(MAX_HEADER).read_to_end(&mut header).ok()?;
    }
    if let Some(end) = memchr::memmem::find(&header, b"\n\n") {
        header.truncate(end);
    }
    Some(String::from_utf8_lossy(&header).into_owned())
}

/// Whether a directory belongs to an environment of uvx. Such an environment is an archive in uv's cache.
pub fn is_in_cache_of_uv(site: &Path) -> bool {
    let is_archive = |directory: &&Path| {
        let name = directory.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(b"archive-v") && directory.with_file_name("CACHEDIR.TAG").is_file()
    };
    site.ancestors().any(|directory| is_archive(&directory))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn metadata(directory: &Path, name: &str, file: &str, text: &str) {
        fs::create_dir_all(directory.join(name)).unwrap();
        fs::write(directory.join(name).join(file), text).unwrap();
    }

    #[test]
    fn the_first_on_the_path_wins_whatever_the_spelling() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        metadata(
            &one,
            "aws_cdk.core-1.0.dist-info",
            "METADATA",
            "Name: aws-cdk.core\nVersion: 1.0\n\nVersion: 9",
        );
        metadata(&two, "aws_cdk.core-2.0.dist-info", "METADATA", "Name: aws_cdk.core\nVersion: 2.0\n");
        metadata(&two, "Old.egg-info", "PKG-INFO", "name: Old\r\nversion: 3\r\n\r\n");
        metadata(&two, "~ld-1.dist-info", "METADATA", "Name: tilde\nVersion: 1\n");
        metadata(&two, "empty-1.dist-info", "RECORD", "");
        metadata(&two, "egg-4.egg/EGG-INFO", "PKG-INFO", "Name: egg\nVersion: 4\n");
        fs::write(two.join("flat.egg-info"), "Name: flat\nVersion: 5\n").unwrap();
        metadata(&two, "unlisted-4.egg/EGG-INFO", "PKG-INFO", "Name: unlisted\nVersion: 4\n");
        metadata(&two, "upper-6.DIST-INFO", "METADATA", "Name: upper\nVersion: 6\n");
        metadata(&two, "other-7.dist-info", "PKG-INFO", "Name: other\nVersion: 7\n");
        metadata(&two, "both-8.egg-info", "PKG-INFO", "Name: both\nVersion: 1\n");
        metadata(&two, "both-8.egg-info", "METADATA", "Name: both\nVersion: 8\n");
        let egg = two.join("egg-4.egg");
        let sys_path = [one, root.path().join("absent"), two, egg];
        let packages = read_installed(&sys_path);
        let versions = packages.versions();
        let expected = [
            ("aws-cdk-core", "1.0"),
            ("both", "8"),
            ("egg", "4"),
            ("flat", "5"),
            ("old", "3"),
            ("other", "7"),
            ("upper", "6"),
        ];
        assert_eq!(versions, expected.map(|(name, version)| (name.to_owned(), version.to_owned())).into());
        assert_eq!(packages.get("AWS.CDK__core").unwrap().version, "1.0");
        assert_eq!(find_distribution(&sys_path, "AWS.CDK_core"), packages.get("aws-cdk.core").cloned());
        assert_eq!(find_distribution(&sys_path, "absent"), None);
    }

    #[test]
    fn a_carriage_return_ends_a_field() {
        let text = "Name: x\rVersion: 1\r\nRequires-Dist: y\r--index-url: z\r\r\nVersion: 2\n";
        let found = parse_metadata(text, PathBuf::new()).unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("x", "1"));
        assert_eq!(found.requires, ["y"]);
    }

    /// The expected values are those that Python 3.9 to 3.13 returned for these headers.
    #[test]
    fn a_header_means_what_it_means_to_python() {
        let version = |text: &str| parse_metadata(text, PathBuf::new()).map(|found| found.version);
        for (text, expected) in [
            ("Name: x\nVersion: 1\nVersion: 2\n", Some("1")),
            ("Name: x\nVersion:\n 1.5\n", Some("1.5")),
            ("Name: x\nVersion: 1.5\n .7\n", Some("1.5 .7")),
            ("Name: x\nLicense: y\n Version: 3\nVersion: 1\n", Some("1")),
            ("Name: x\nno field\nVersion: 3\n", None),
            ("Name: x\nName : y\nVersion: 3\n", None),
            ("Name: x\nÄ: y\nVersion: 1\n", None),
            ("\u{feff}Metadata-Version: 2.1\nName: x\nVersion: 1\n", None),
            ("Name:\n x\n \t\nVersion: 1\n", Some("1")),
        ] {
            assert_eq!(version(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_header_is_read_to_its_end() {
        let root = tempfile::tempdir().unwrap();
        let long = format!("Name: long\n{}Version: 7\n\n", "Classifier: x\n".repeat(1000));
        metadata(root.path(), "long-7.dist-info", "METADATA", &long);
        assert_eq!(read_installed(&[root.path().to_owned()]).get("long").unwrap().version, "7");
    }
}
