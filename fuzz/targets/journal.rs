//! The journal of a repair, as it is read from the disk.

#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use pcluster_shim::repair::journal::Journal;
use pcluster_shim_fuzz::input;

fn is_below(path: &Path, roots: &[std::path::PathBuf]) -> bool {
    path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && roots.iter().any(|root| path.starts_with(root) && path != root)
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let Ok(journal) = serde_json::from_slice::<Journal>(&bytes) else { return };
    let written = serde_json::to_value(&journal).expect("a journal is JSON");
    let again: Journal = serde_json::from_slice(written.to_string().as_bytes()).expect("a journal is read");
    assert_eq!(serde_json::to_value(&again).expect("a journal is JSON"), written);
    assert!(journal.refuse_paths_outside(Path::new("/another/environment")).is_err());
    let site = journal.site.clone();
    if journal.refuse_paths_outside(&site).is_err() {
        return;
    }
    // `refuse_paths_outside` follows links, so it can accept a path that does not begin with a root, if a
    // link in the path leads to a root. If neither a root nor a directory above a root (except `/`) exists,
    // only a link to `/` could do that. No input is expected to contain such a link, so every accepted path
    // then has to begin with a root.
    let roots = journal.roots();
    let is_real =
        roots.iter().any(|root| root.ancestors().any(|above| above != Path::new("/") && above.exists()));
    let snapshot = Path::new("/v/snapshot");
    for saved in &journal.removed {
        assert!(is_real || is_below(&saved.path, &roots), "{:?} is accepted", saved.path);
        assert_eq!(snapshot.join(&saved.copy).parent(), Some(snapshot), "{:?} is accepted", saved.copy);
    }
    for path in &journal.created {
        assert!(is_real || is_below(path, &roots), "{path:?} is accepted");
    }
    assert_eq!(snapshot.join(&journal.id).parent(), Some(snapshot), "{:?} is accepted", journal.id);
    let is_token = |token: &String| token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(journal.token.iter().all(is_token), "{:?} is accepted", journal.token);
    assert!(journal.parts.iter().all(|part| roots.contains(&part.site)));
    if !is_real {
        assert!(journal.find_missing_copies(snapshot).len() <= journal.removed.len());
        let foreign = journal.find_foreign_packages();
        assert!(foreign.names.is_empty() && foreign.not_removed.is_empty());
        let _ = journal.find_changed_package();
        let _ = journal.find_reinstalled_package();
        // Without a token, `is_bound` returns true. With a token, `is_bound` returns false, because no token
        // file exists here, or an error, because the path of a token file cannot be opened.
        assert_eq!(journal.is_bound() == Ok(true), journal.token.is_none());
    }
    // If no root exists, no file below a root exists, so no file can be changed or foreign. A root `/` is
    // excluded here, because `is_real` ignores `/`.
    if !is_real && roots.iter().all(|root| root != Path::new("/")) {
        assert!(journal.find_changed_files().is_empty() && journal.find_foreign_files().is_empty());
    }
});
