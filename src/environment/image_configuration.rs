//! The files that a call of `build-image` names, and which of them a check may read.
//!
//! Only the first reader of a pipe, a FIFO or a device gets its content. The first reader has to be the real
//! pcluster, so neither the shim nor a child of the shim opens such a file.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The maximum number of links that Linux follows in one path.
const MAX_LINKS: usize = 40;

/// The file names that an argument may contain: `FILE`, `--option=FILE`, `-cFILE`, `-c=FILE`. It does not
/// matter which of these forms pcluster's parser accepts: a name counts if the file exists.
pub fn file_names(argument: &OsStr) -> impl Iterator<Item = &Path> {
    let argument = argument.as_bytes();
    let joined = argument.iter().position(|byte| *byte == b'=').map(|equals| &argument[equals + 1..]);
    let short = argument.strip_prefix(b"-c");
    [Some(argument), joined, short].into_iter().flatten().map(|name| Path::new(OsStr::from_bytes(name)))
}

/// Finds the first file that a check must not read, among those that the arguments name.
pub fn find_read_once(arguments: &[OsString]) -> Option<PathBuf> {
    let mut names = arguments.iter().flat_map(|argument| file_names(argument));
    names.find(|name| is_read_once(name)).map(Path::to_owned)
}

/// Whether a check must not read a file: it is neither a regular file nor a directory, or its name means a
/// different file in every process, as `/dev/stdin` does.
pub fn is_read_once(path: &Path) -> bool {
    path.metadata().is_ok_and(
        |metadata| {
            if metadata.is_file() { leads_to_descriptor(path) } else { !metadata.is_dir() }
        },
    )
}

/// Whether a path leads to /proc or /dev (except /dev/shm), directly or through links. Such a path may mean
/// an open file of the process that uses the path. The links are followed one by one, because `canonicalize`
/// would resolve `/dev/stdin` to the file behind it.
fn leads_to_descriptor(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let absolute = env::current_dir().unwrap_or_default().join(&path);
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { return false };
        let Ok(parent) = parent.canonicalize() else { return false };
        let here = parent.join(name);
        if here.starts_with("/proc") || here.starts_with("/dev") && !here.starts_with("/dev/shm") {
            return true;
        }
        match fs::read_link(&here) {
            Ok(target) => path = parent.join(target),
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_form_of_a_file_name_is_found() {
        let names = |argument: &'static str| {
            file_names(OsStr::new(argument)).map(|name| name.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names("f"), ["f"]);
        assert_eq!(names("--image-conf=f=g"), ["--image-conf=f=g", "f=g"]);
        assert_eq!(names("-cf"), ["-cf", "f"]);
        assert_eq!(names("-c=f"), ["-c=f", "f", "=f"]);
    }

    #[test]
    fn files_that_can_be_read_only_once_are_recognised() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("directory")).unwrap();
        for (link, target) in [
            ("to-file", "file"),
            ("to-fifo", "fifo"),
            ("to-stdin", "/dev/stdin"),
            ("to-link", "to-stdin"),
            ("descriptors", "/dev/fd"),
            ("loop", "loop"),
            ("dangling", "nowhere"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let redirected = fs::File::open(at("file")).unwrap();
        let descriptor = format!("descriptors/{}", std::os::fd::AsRawFd::as_raw_fd(&redirected));
        for name in ["fifo", "to-fifo", "to-stdin", "to-link", descriptor.as_str()] {
            assert!(is_read_once(&at(name)), "{name}");
        }
        for name in ["file", "to-file", "directory", "loop", "dangling", "absent", "file/x"] {
            assert!(!is_read_once(&at(name)), "{name}");
        }
        for name in ["/dev/null", "/dev/stdin", "/dev/fd/0"] {
            assert!(is_read_once(Path::new(name)), "{name}");
        }
        for name in ["", "/", "/dev", ".", ".."] {
            assert!(!is_read_once(Path::new(name)), "{name:?}");
        }
    }
}
