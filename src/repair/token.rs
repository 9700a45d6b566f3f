//! The token that binds the journals of repairs to their environment: a random line in a file next to the
//! environment's packages.
//!
//! Unlike device and inode numbers, the token stays the same after a reboot, and in a copy, an rsync or a
//! restored backup. An environment that is recreated at the same path does not have the token. A repair
//! reuses a token only from an earlier journal of the same user, because users cannot read one another's
//! journals. So if users share an environment, the file has a line with a separate token for each user.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use crate::repair::file_digest::hexadecimal;
use crate::system::{disk, files};

/// The name of the token file. Every package directory (such as site-packages) in which a repair has changed
/// something contains a token file.
pub const TOKEN_FILE: &str = ".repaired-by-pcluster-shim";

/// The name under which the token file is written, before it is renamed.
const TEMPORARY_FILE: &str = ".repaired-by-pcluster-shim.new";

const TOKEN_BYTES: usize = 16;

/// Creates a token that no other environment has.
pub fn generate() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(hexadecimal(&bytes))
}

/// Whether a text has the form of a token. The token in a journal has to be checked, because journals are
/// read from the disk: an empty token would match any empty line of a token file.
pub fn is_token(text: &str) -> bool {
    text.len() == 2 * TOKEN_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a package directory has this token.
pub fn is_in(site: &Path, token: &str) -> io::Result<bool> {
    Ok(read(site)?.lines().any(|line| line == token))
}

/// Adds a token to a package directory, and syncs it to the disk.
pub fn add(site: &Path, token: &str) -> io::Result<()> {
    let tokens = read(site)?;
    if tokens.lines().any(|line| line == token) {
        return Ok(());
    }
    let separator = if tokens.is_empty() || tokens.ends_with('\n') { "" } else { "\n" };
    write(site, &format!("{tokens}{separator}{token}\n"))
}

/// Removes a token from a package directory, and syncs the change to the disk. The token file is removed with
/// its last token.
pub fn remove(site: &Path, token: &str) -> io::Result<()> {
    remove_file(&site.join(TEMPORARY_FILE))?;
    let tokens = read(site)?;
    let others: String = tokens.split_inclusive('\n').filter(|line| line.trim_end() != token).collect();
    if others == tokens {
        return Ok(());
    }
    if !others.is_empty() {
        return write(site, &others);
    }
    remove_file(&site.join(TOKEN_FILE))?;
    disk::sync_directory(site)
}

fn read(site: &Path) -> io::Result<String> {
    match files::read_to_string(&site.join(TOKEN_FILE)) {
        Err(error) if is_absent(&error) => Ok(String::new()),
        other => other,
    }
}

/// Writes the token file under a fixed temporary name, then renames it. A temporary file with a random name
/// would be left behind after a kill, because no later call could find it.
fn write(site: &Path, tokens: &str) -> io::Result<()> {
    let temporary = site.join(TEMPORARY_FILE);
    remove_file(&temporary)?;
    let mut file = File::create_new(&temporary)?;
    file.write_all(tokens.as_bytes())?;
    share(site, &temporary)?;
    disk::sync_file(&file)?;
    disk::rename(&temporary, &site.join(TOKEN_FILE))
}

/// Gives the file the read and write permissions of its directory, whatever the umask.
fn share(site: &Path, file: &Path) -> io::Result<()> {
    let directory = site.metadata()?;
    // This can fail, because only root and the members of a group may give a file to that group.
    let _ = chown(file, None, Some(directory.gid()));
    fs::set_permissions(file, fs::Permissions::from_mode(directory.permissions().mode() & 0o666))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_valid() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert!(is_token(&one) && is_token(&other) && one != other, "{one} {other}");
        for text in ["", "\n", "x".repeat(32).as_str(), &one[1..], &format!("{one}\n")] {
            assert!(!is_token(text), "{text:?}");
        }
    }

    #[test]
    fn a_token_that_is_removed_leaves_no_file() {
        let site = tempfile::tempdir().unwrap();
        let token = generate().unwrap();
        assert!(!is_in(site.path(), &token).unwrap());
        add(site.path(), &token).unwrap();
        assert!(is_in(site.path(), &token).unwrap());
        // What remains if the process is killed while it writes the file.
        fs::write(site.path().join(TEMPORARY_FILE), "half").unwrap();
        remove(site.path(), &token).unwrap();
        assert_eq!(site.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn the_tokens_of_others_stay() {
        let site = tempfile::tempdir().unwrap();
        let file = site.path().join(TOKEN_FILE);
        let (mine, theirs) = (generate().unwrap(), generate().unwrap());
        add(site.path(), &theirs).unwrap();
        let before = fs::read(&file).unwrap();
        add(site.path(), &mine).unwrap();
        assert!(is_in(site.path(), &mine).unwrap() && is_in(site.path(), &theirs).unwrap());
        remove(site.path(), &mine).unwrap();
        assert_eq!(fs::read(&file).unwrap(), before);
    }

    #[test]
    fn a_token_is_shared_as_its_directory_is() {
        let site = tempfile::tempdir().unwrap();
        for (directory, expected) in [(0o700, 0o600), (0o2775, 0o664)] {
            fs::set_permissions(site.path(), fs::Permissions::from_mode(directory)).unwrap();
            let token = generate().unwrap();
            add(site.path(), &token).unwrap();
            let mode = site.path().join(TOKEN_FILE).metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, expected);
        }
    }

    #[test]
    fn a_directory_that_is_gone_has_no_token() {
        assert!(!is_in(Path::new("/absent/site"), &generate().unwrap()).unwrap());
        assert!(!is_in(Path::new("/dev/null/site"), &generate().unwrap()).unwrap());
    }
}
