//! Source edits: changes to aws-parallelcluster's own files, made in a copy of aws-parallelcluster among the
//! staged packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha256};

use crate::environment::record::{MAX_RECORD, dist_info_name, record_path, stays_inside};
use crate::error::Error;
use crate::model::distribution::Distribution;
use crate::repair::change::{Change, Edit};
use crate::repair::file_access::Access;
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::journal::PackageFiles;
use crate::rules::edits::{self, SourceEdit};
use crate::system::files::{self, describe};
use crate::text::package_name::PCLUSTER;

/// Copies aws-parallelcluster into the directory of staged packages, makes the edits with these ids, updates
/// the RECORD of the copy, and returns the change.
///
/// # Errors
/// Returns an error if the text to replace does not occur exactly once: the file then differs from the one
/// that was released, and we do not know what the edit would do.
pub fn stage_edits(pcluster: &Distribution, ids: &[String], overlay: &Path) -> Result<Change, Error> {
    let wanted = edits::select(&pcluster.version).into_iter().filter(|edit| ids.contains(&edit.id));
    let edits = stage_files(pcluster, &wanted.collect::<Vec<_>>(), overlay)?;
    let version = pcluster.version.clone();
    Ok(Change {
        package: PCLUSTER.into(),
        from: Some(version.clone()),
        to: version,
        why: ids.join(", "),
        edits,
    })
}

/// The ids of the edits that fit the installed files. An id counts only if all its edits fit.
pub fn find_fitting_edits(pcluster: &Distribution) -> BTreeSet<String> {
    let site = pcluster.metadata.parent().unwrap_or(&pcluster.metadata);
    let edits = edits::select(&pcluster.version);
    let fits = |id: &str| {
        edits
            .iter()
            .filter(|edit| edit.id == id)
            .all(|edit| edit_texts(site, std::slice::from_ref(edit)).is_ok())
    };
    edits.iter().map(|edit| edit.id.clone()).filter(|id| fits(id)).collect()
}

fn stage_files(pcluster: &Distribution, wanted: &[SourceEdit], overlay: &Path) -> Result<Vec<Edit>, Error> {
    let name = format!("{} {}", pcluster.name, pcluster.version);
    let record_file = pcluster.metadata.join("RECORD");
    let unread = |error| refuse(describe("cannot read", &record_file)(error));
    let record = files::read_text_up_to(&record_file, MAX_RECORD).map_err(unread)?;
    let site = pcluster.metadata.parent().unwrap_or(&pcluster.metadata);
    let (texts, edits) = edit_texts(site, wanted)?;
    let mut lines: Vec<String> = record.lines().map(str::to_owned).collect();
    for (file, text) in &texts {
        let line = lines.iter_mut().find(|line| record_path(line) == *file);
        *line.ok_or_else(|| refuse(format!("RECORD of {name} does not list {file}")))? =
            record_line(file, text);
        write_like(&site.join(file), &overlay.join(file), text)?;
    }
    let dist_info = dist_info_name(pcluster).unwrap_or_default();
    let new_record = format!("{dist_info}/RECORD");
    let is_left = |path: &str| texts.contains_key(path) || path == new_record || !stays_inside(path);
    for path in record.lines().map(record_path).filter(|path| !is_left(path)) {
        copy(&site.join(&path), &overlay.join(&path))?;
    }
    write_like(&record_file, &overlay.join(&new_record), &(lines.join("\n") + "\n"))?;
    Ok(edits)
}

/// The texts of the files after the wanted edits, and the edits with their line numbers.
fn edit_texts<'a>(
    site: &Path,
    wanted: &'a [SourceEdit],
) -> Result<(BTreeMap<&'a str, String>, Vec<Edit>), Error> {
    let (mut texts, mut edits) = (BTreeMap::new(), Vec::new());
    for edit in wanted {
        let path = site.join(&edit.file);
        let text = match texts.remove(edit.file.as_str()) {
            Some(text) => text,
            None => {
                files::read_to_string(&path).map_err(|error| refuse(describe("cannot read", &path)(error)))?
            }
        };
        let (edited, line) = edit.apply(&text).ok_or_else(|| {
            refuse(format!("{} does not contain `{}` exactly once", path.display(), edit.before.trim()))
        })?;
        let (file, from, to) = (edit.file.clone(), edit.before.clone(), edit.after.clone());
        edits.push(Edit { file, line, from, to });
        texts.insert(edit.file.as_str(), edited);
    }
    Ok((texts, edits))
}

/// Finds a file that the repair edited and that somebody has changed since: it exists, but no longer matches
/// RECORD. An undo would discard the newer change.
pub fn find_changed_file(part: &PackageFiles, changes: &[Change]) -> Option<PathBuf> {
    let change = changes.iter().find(|change| change.package == part.package && !change.edits.is_empty())?;
    let record = files::read_text_up_to(&part.site.join(&part.new).join("RECORD"), MAX_RECORD).ok()?;
    let is_recorded = |file: &str| {
        let text = files::read_to_string(&part.site.join(file)).unwrap_or_default();
        record.lines().any(|line| line == record_line(file, &text))
    };
    let is_changed = |file: &str| part.site.join(file).exists() && !is_recorded(file);
    let edit = change.edits.iter().find(|edit| is_changed(&edit.file))?;
    Some(part.site.join(&edit.file))
}

/// The line of RECORD for a file with this text.
fn record_line(file: &str, text: &str) -> String {
    format!("{file},sha256={},{}", Base64UrlUnpadded::encode_string(&Sha256::digest(text)), text.len())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    // Bytecode that is listed in RECORD need not exist.
    if !from.is_file() {
        return Ok(());
    }
    make_directory_of(to)?;
    fs::copy(from, to).map(drop).map_err(|error| fail(describe("cannot write", to)(error)))
}

/// Writes a file with the owner, the group and the mode of `like`, because other users read the
/// environment too.
fn write_like(like: &Path, path: &Path, text: &str) -> Result<(), Error> {
    make_directory_of(path)?;
    fs::write(path, text).map_err(|error| fail(describe("cannot write", path)(error)))?;
    let kept = like.metadata().and_then(|metadata| Access::of(&metadata).give(path));
    kept.map_err(|error| refuse(describe("cannot keep owner, group and mode of", like)(error)))
}

fn make_directory_of(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(|error| fail(describe("cannot create", directory)(error)))
}

fn refuse(message: String) -> Error {
    let next = "Nothing was changed. Reinstall aws-parallelcluster, or install a release that needs no edit.";
    Error::repair(message, next)
}

fn fail(message: String) -> Error {
    Error::repair(message, UNCHANGED_FREE_SPACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::packages::read_installed;

    const CODE: &str = "f(\n    runtime=\"python3.9\",\n)\n";

    fn wanted() -> Vec<SourceEdit> {
        edits::select("3.13.2")
    }

    /// The digest is the output of `printf '' | openssl dgst -sha256 -binary | basenc --base64url`, without
    /// padding.
    #[test]
    fn a_line_of_record_has_digest_and_size() {
        assert_eq!(record_line("a.py", ""), "a.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0");
    }

    fn installed(root: &Path, code: &str) -> Distribution {
        let metadata = root.join("aws_parallelcluster-3.13.2.dist-info");
        fs::create_dir_all(&metadata).unwrap();
        fs::create_dir_all(root.join("pcluster/templates")).unwrap();
        let mut record = "pcluster/__init__.py,,\n../../../bin/pcluster,,\n".to_owned();
        for SourceEdit { file, .. } in wanted() {
            fs::write(root.join(&file), code).unwrap();
            record += &(record_line(&file, code) + "\n");
        }
        fs::write(root.join("pcluster/__init__.py"), "").unwrap();
        fs::write(metadata.join("METADATA"), "Name: aws-parallelcluster\nVersion: 3.13.2\n").unwrap();
        record += "aws_parallelcluster-3.13.2.dist-info/METADATA,,\n";
        record += "aws_parallelcluster-3.13.2.dist-info/RECORD,,\n";
        fs::write(metadata.join("RECORD"), record).unwrap();
        Distribution { name: PCLUSTER.into(), version: "3.13.2".into(), metadata, requires: Vec::new() }
    }

    #[test]
    fn the_copy_is_whole_and_its_record_true() {
        let (site, overlay) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let change =
            stage_edits(&installed(site.path(), CODE), &["lambda-runtime".into()], overlay.path()).unwrap();
        assert_eq!((change.why.as_str(), change.edits.len(), change.edits[0].line), ("lambda-runtime", 2, 2));
        let edited = CODE.replace("3.9", "3.12");
        let record =
            fs::read_to_string(overlay.path().join("aws_parallelcluster-3.13.2.dist-info/RECORD")).unwrap();
        for SourceEdit { file, .. } in wanted() {
            assert_eq!(fs::read_to_string(overlay.path().join(&file)).unwrap(), edited);
            assert!(record.contains(&record_line(&file, &edited)), "{record}");
            assert_eq!(fs::read_to_string(site.path().join(&file)).unwrap(), CODE);
        }
        assert!(overlay.path().join("pcluster/__init__.py").is_file());
        assert_eq!(read_installed(&[overlay.path().to_owned()]).get(PCLUSTER).unwrap().version, "3.13.2");
    }

    #[test]
    fn two_edits_of_one_file_are_both_made() {
        let (site, overlay) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let distribution = installed(site.path(), CODE);
        let mut twice = wanted();
        twice[1] = SourceEdit { before: "f(".into(), after: "g(".into(), ..twice[0].clone() };
        assert_eq!(stage_files(&distribution, &twice, overlay.path()).unwrap().len(), 2);
        let text = fs::read_to_string(overlay.path().join(&twice[0].file)).unwrap();
        assert_eq!(text, "g(\n    runtime=\"python3.12\",\n)\n");
    }

    #[test]
    fn an_edited_file_is_changed_by_other_content_and_not_by_its_absence() {
        let (site, overlay) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let installed = installed(site.path(), CODE);
        let changes = [stage_edits(&installed, &["lambda-runtime".into()], overlay.path()).unwrap()];
        let part = PackageFiles {
            package: PCLUSTER.into(),
            site: overlay.path().to_owned(),
            created: 0..0,
            records: [].into(),
            new: dist_info_name(&installed).unwrap(),
            replaced_record: None,
        };
        assert_eq!(find_changed_file(&part, &changes), None);
        let file = overlay.path().join(&wanted()[0].file);
        fs::write(&file, "mine").unwrap();
        assert_eq!(find_changed_file(&part, &changes), Some(file.clone()));
        fs::remove_file(&file).unwrap();
        assert_eq!(find_changed_file(&part, &changes), None);
    }

    #[test]
    fn an_edit_fits_only_if_all_its_files_have_its_text() {
        let site = tempfile::tempdir().unwrap();
        let distribution = installed(site.path(), CODE);
        assert_eq!(find_fitting_edits(&distribution), ["lambda-runtime".to_owned()].into());
        fs::write(site.path().join(&wanted()[1].file), CODE.replace("3.9", "3.12")).unwrap();
        assert!(find_fitting_edits(&distribution).is_empty());
    }

    #[test]
    fn files_that_an_edit_does_not_fit_are_refused() {
        let refused = |change: &dyn Fn(&Path)| {
            let (site, overlay) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let distribution = installed(site.path(), CODE);
            change(site.path());
            stage_files(&distribution, &wanted(), overlay.path()).unwrap_err().to_string()
        };
        let file = wanted()[1].file.clone();
        let edited = refused(&|site| fs::write(site.join(&file), CODE.replace("3.9", "3.10")).unwrap());
        assert!(edited.contains("does not contain `runtime=\"python3.9\"` exactly once"), "{edited}");
        let gone = refused(&|site| fs::remove_file(site.join(&file)).unwrap());
        assert!(gone.contains("cannot read"), "{gone}");
        let record = "aws_parallelcluster-3.13.2.dist-info/RECORD";
        let unlisted = refused(&|site| fs::write(site.join(record), "").unwrap());
        assert!(unlisted.contains("does not list"), "{unlisted}");
    }
}
