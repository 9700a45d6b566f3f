//! Reads files safely: only regular files, opened without waiting, up to a limit.
//!
//! A path from a variable, a config file or an environment may lead to a FIFO, a device or a directory.
//! `stat` is called before `open`, because opening some devices has side effects.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// `CloudFormation`'s limit for a template, and more than any config or advisory file needs.
pub const MAX_BYTES: u64 = 1 << 20;

/// Reads a file of at most [`MAX_BYTES`].
///
/// # Errors
/// Returns an error if the file is not regular, is too large, or cannot be read. If the file does not exist,
/// the error's kind is `NotFound`. The error's text is meant to follow the file's name.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, MAX_BYTES)
}

/// Reads a file of at most `max` bytes.
pub fn read_up_to(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    // Checked before reading, so that a sparse file of a terabyte takes no time.
    if file.metadata()?.len() > max {
        return Err(too_large(max));
    }
    read_stream(file, max)
}

/// Reads a text of at most [`MAX_BYTES`].
pub fn read_to_string(path: &Path) -> io::Result<String> {
    read_text_up_to(path, MAX_BYTES)
}

/// Reads a text of at most `max` bytes.
pub fn read_text_up_to(path: &Path, max: u64) -> io::Result<String> {
    let no_text = |_| io::Error::new(ErrorKind::InvalidData, "not UTF-8 text");
    String::from_utf8(read_up_to(path, max)?).map_err(no_text)
}

/// Reads a stream of at most `max` bytes to its end.
pub fn read_stream(stream: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    stream.take(max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > max { Err(too_large(max)) } else { Ok(content) }
}

/// Reads the first `count` bytes of a file, or fewer if it is shorter.
pub fn read_head(path: &Path, count: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
    open(path)?.take(count).read_to_end(&mut head)?;
    Ok(head)
}

/// Opens a regular file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    check_regular(path)?;
    // The file may have become a FIFO in the meantime. Opening a FIFO without NONBLOCK would wait for
    // a writer.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    refuse_irregular(file.metadata()?.file_type())?;
    Ok(file)
}

/// Checks that a path leads to a regular file.
pub fn check_regular(path: &Path) -> io::Result<()> {
    refuse_irregular(path.metadata()?.file_type())
}

fn refuse_irregular(kind: FileType) -> io::Result<()> {
    let (kind, name) = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => (ErrorKind::IsADirectory, "a directory"),
        kind if kind.is_fifo() => (ErrorKind::InvalidInput, "a FIFO"),
        kind if kind.is_socket() => (ErrorKind::InvalidInput, "a socket"),
        _ => (ErrorKind::InvalidInput, "a device"),
    };
    Err(io::Error::new(kind, format!("expected a regular file, found {name}")))
}

/// For `map_err`: turns an error into a text that names the file.
pub fn describe(what: &str, path: &Path) -> impl FnOnce(io::Error) -> String {
    let what = format!("{what} {}", path.display());
    move |error| format!("{what}: {error}")
}

fn too_large(max: u64) -> io::Error {
    let megabytes = max.div_ceil(1 << 20);
    io::Error::new(ErrorKind::FileTooLarge, format!("larger than {megabytes} MB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixListener;

    /// Reading a FIFO can wait forever, and `/dev/zero` has no end.
    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for (path, name) in [
            (fifo.as_path(), "a FIFO"),
            (&link, "a FIFO"),
            (&socket, "a socket"),
            (directory.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let told = format!("expected a regular file, found {name}");
            assert_eq!(read(path).unwrap_err().to_string(), told);
            assert_eq!(read_head(path, 10).unwrap_err().to_string(), told);
            assert_eq!(open(path).unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn the_limit_is_the_last_size_that_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![b'a'; 1 << 20]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1 << 20);
        fs::write(&path, vec![b'a'; (1 << 20) + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "larger than 1 MB");
        assert_eq!(read_head(&path, 3).unwrap(), b"aaa");
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_stream(io::repeat(b'a'), 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_stream(&b"0123456789"[..], 10).unwrap(), b"0123456789");
    }

    #[test]
    fn an_absent_file_and_other_bytes_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_to_string(&path).unwrap_err().to_string(), "not UTF-8 text");
        fs::write(&path, "text").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "text");
    }
}
