//! The repair of a Lambda runtime that AWS refuses: one literal in each of two files of the installed
//! aws-parallelcluster. It is made only where it is asked for by its id, because it edits an installed
//! program.

use std::fs;
use std::path::{Path, PathBuf};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha256};

use crate::environment::packages::read_installed;
use crate::environment::record::{MAX_RECORD, dist_info_name, record_path, stays_inside};
use crate::error::{Abort, Error, RepairStep};
use crate::model::distribution::Distribution;
use crate::repair::change::{Change, Edit};
use crate::repair::context::Repair;
use crate::repair::file_access::Access;
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::journal::PackageFiles;
use crate::repair::prove::{Proof, collect_unmet, prove};
use crate::repair::stage::{Staged, create_overlay};
use crate::rules::template::runtimes::ID;
use crate::system::files::{self, describe};
use crate::text::package_name::PCLUSTER;

/// The runtime on which upstream runs these functions from 3.14.0 on. Their code is that of 3.13.2, which
/// asks for python3.9: `pcluster/resources/custom_resources` of both releases are equal.
const SUCCESSOR: &str = "python3.12";

/// The files that name the runtime: the stack of an image, and what it shares with that of a cluster.
const FILES: [&str; 2] =
    ["pcluster/templates/cdk_builder_utils.py", "pcluster/templates/imagebuilder_stack.py"];

/// Stages a copy of aws-parallelcluster whose functions ask for another runtime, and proves it.
pub fn replace_runtime(repair: &Repair, runtime: &str) -> Result<Staged, Abort> {
    let staged = stage(repair, runtime)?;
    match prove(repair, &staged)? {
        Proof::Ready => Ok(staged),
        Proof::NotReady(report) => Err(describe_useless(&collect_unmet(repair, &report)).into()),
    }
}

fn stage(repair: &Repair, runtime: &str) -> Result<Staged, Error> {
    let Some(pcluster) = repair.packages.get(PCLUSTER) else { return Err(refuse(format!("no {PCLUSTER}"))) };
    let overlay = create_overlay(repair)?;
    let edits = stage_files(pcluster, runtime, overlay.path())?;
    let packages = read_installed(&[overlay.path().to_owned()]);
    let version = pcluster.version.clone();
    let change =
        Change { package: PCLUSTER.into(), from: Some(version.clone()), to: version, why: ID.into(), edits };
    Ok(Staged { overlay, packages, changes: vec![change] })
}

/// Copies the files of a distribution, with the runtime replaced and its RECORD true, and returns the edits.
fn stage_files(pcluster: &Distribution, runtime: &str, overlay: &Path) -> Result<Vec<Edit>, Error> {
    let name = format!("{} {}", pcluster.name, pcluster.version);
    let record_file = pcluster.metadata.join("RECORD");
    let unread = |error| refuse(describe("cannot read", &record_file)(error));
    let record = files::read_text_up_to(&record_file, MAX_RECORD).map_err(unread)?;
    let site = pcluster.metadata.parent().unwrap_or(&pcluster.metadata);
    let mut edits = Vec::new();
    let mut lines: Vec<String> = record.lines().map(str::to_owned).collect();
    for file in FILES {
        let line = lines.iter_mut().find(|line| record_path(line) == file);
        let Some(line) = line else { return Err(refuse(format!("RECORD of {name} does not list {file}"))) };
        let path = site.join(file);
        let text =
            files::read_to_string(&path).map_err(|error| refuse(describe("cannot read", &path)(error)))?;
        if *line != record_line(file, &text) {
            return Err(refuse(format!(
                "{} is not as {name} brings it: RECORD does not have its digest",
                path.display()
            )));
        }
        let (edited, edit) = replace_literal(&text, file, runtime).ok_or_else(|| {
            refuse(format!("{} does not hold runtime=\"{runtime}\" exactly once", path.display()))
        })?;
        *line = record_line(file, &edited);
        edits.push(edit);
        write_like(&path, &overlay.join(file), &edited)?;
    }
    let dist_info = dist_info_name(pcluster).unwrap_or_default();
    let new_record = format!("{dist_info}/RECORD");
    let is_left = |path: &str| FILES.contains(&path) || path == new_record || !stays_inside(path);
    for path in record.lines().map(record_path).filter(|path| !is_left(path)) {
        copy(&site.join(&path), &overlay.join(&path))?;
    }
    write_like(&record_file, &overlay.join(&new_record), &(lines.join("\n") + "\n"))?;
    Ok(edits)
}

/// Finds an edited file that is there and no longer as RECORD has it: an undo would throw that change away.
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

/// Replaces the runtime in the text of a file; `None` where it does not stand there exactly once.
fn replace_literal(text: &str, file: &str, runtime: &str) -> Option<(String, Edit)> {
    let literal = format!("runtime=\"{runtime}\"");
    let (before, after) = text.split_once(&literal)?;
    if after.contains(&literal) {
        return None;
    }
    let edit = Edit {
        file: file.into(),
        line: before.matches('\n').count() + 1,
        from: literal,
        to: format!("runtime=\"{SUCCESSOR}\""),
    };
    Some((format!("{before}{}{after}", edit.to), edit))
}

/// The line of RECORD for a file with this text.
fn record_line(file: &str, text: &str) -> String {
    format!("{file},sha256={},{}", Base64UrlUnpadded::encode_string(&Sha256::digest(text)), text.len())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    // Bytecode that RECORD lists need not be there.
    if !from.is_file() {
        return Ok(());
    }
    make_directory_of(to)?;
    fs::copy(from, to).map(drop).map_err(|error| fail(describe("cannot write", to)(error)))
}

/// Writes a file with the owner, the group and the mode of another one: others may read the environment.
fn write_like(like: &Path, path: &Path, text: &str) -> Result<(), Error> {
    make_directory_of(path)?;
    fs::write(path, text).map_err(|error| fail(describe("cannot write", path)(error)))?;
    let kept = like.metadata().and_then(|metadata| Access::of(&metadata).give(path));
    kept.map_err(|error| refuse(describe("cannot keep owner, group and mode of", like)(error)))
}

fn make_directory_of(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(|error| fail(describe("cannot make", directory)(error)))
}

fn describe_useless(reasons: &[String]) -> Error {
    let message = format!("with {SUCCESSOR} it is not ready either: {}", reasons.join("; "));
    let next = "Nothing was changed. Use aws-parallelcluster 3.14.0 or later.";
    Error::repair(RepairStep::Proof, message, next)
}

fn refuse(message: String) -> Error {
    let next = "Nothing was changed. Install aws-parallelcluster anew, or 3.14.0 or later.";
    Error::repair(RepairStep::Plan, message, next)
}

fn fail(message: String) -> Error {
    Error::repair(RepairStep::Stage, message, UNCHANGED_FREE_SPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "f(\n    runtime=\"python3.9\",\n)\n";

    #[test]
    fn the_literal_has_to_stand_there_once() {
        let (edited, edit) = replace_literal(CODE, "a.py", "python3.9").unwrap();
        assert_eq!(edited, "f(\n    runtime=\"python3.12\",\n)\n");
        assert_eq!(
            (edit.line, edit.from.as_str(), edit.to.as_str()),
            (2, "runtime=\"python3.9\"", "runtime=\"python3.12\"")
        );
        for other in ["", "runtime = \"python3.9\"", "runtime=\"python3.90\"", &CODE.repeat(2)] {
            assert_eq!(replace_literal(other, "a.py", "python3.9"), None, "{other}");
        }
    }

    /// The digest is that of `printf '' | openssl dgst -sha256 -binary | basenc --base64url`, unpadded.
    #[test]
    fn a_line_of_record_has_digest_and_size() {
        assert_eq!(record_line("a.py", ""), "a.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0");
    }

    fn installed(root: &Path, code: &str) -> Distribution {
        let metadata = root.join("aws_parallelcluster-3.9.3.dist-info");
        fs::create_dir_all(&metadata).unwrap();
        fs::create_dir_all(root.join("pcluster/templates")).unwrap();
        let mut record = "pcluster/__init__.py,,\n../../../bin/pcluster,,\n".to_owned();
        for file in FILES {
            fs::write(root.join(file), code).unwrap();
            record += &(record_line(file, code) + "\n");
        }
        fs::write(root.join("pcluster/__init__.py"), "").unwrap();
        fs::write(metadata.join("METADATA"), "Name: aws-parallelcluster\nVersion: 3.9.3\n").unwrap();
        record += "aws_parallelcluster-3.9.3.dist-info/METADATA,,\n";
        record += "aws_parallelcluster-3.9.3.dist-info/RECORD,,\n";
        fs::write(metadata.join("RECORD"), record).unwrap();
        Distribution { name: PCLUSTER.into(), version: "3.9.3".into(), metadata, requires: Vec::new() }
    }

    #[test]
    fn the_copy_is_whole_and_its_record_true() {
        let (site, overlay) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let edits = stage_files(&installed(site.path(), CODE), "python3.9", overlay.path()).unwrap();
        assert_eq!(edits.len(), 2);
        let edited = CODE.replace("3.9", "3.12");
        let record =
            fs::read_to_string(overlay.path().join("aws_parallelcluster-3.9.3.dist-info/RECORD")).unwrap();
        for file in FILES {
            assert_eq!(fs::read_to_string(overlay.path().join(file)).unwrap(), edited);
            assert!(record.contains(&record_line(file, &edited)), "{record}");
            assert_eq!(fs::read_to_string(site.path().join(file)).unwrap(), CODE);
        }
        assert!(overlay.path().join("pcluster/__init__.py").is_file());
        assert_eq!(read_installed(&[overlay.path().to_owned()]).get(PCLUSTER).unwrap().version, "3.9.3");
    }

    #[test]
    fn an_edited_file_is_changed_by_other_content_and_not_by_its_absence() {
        let (site, overlay) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let installed = installed(site.path(), CODE);
        let edits = stage_files(&installed, "python3.9", overlay.path()).unwrap();
        let dist_info = dist_info_name(&installed).unwrap();
        let part = PackageFiles {
            package: PCLUSTER.into(),
            site: overlay.path().to_owned(),
            created: 0..0,
            records: [].into(),
            new: dist_info,
            replaced_record: None,
        };
        let why = ID.into();
        let changes = [Change { package: PCLUSTER.into(), from: None, to: "3.9.3".into(), why, edits }];
        assert_eq!(find_changed_file(&part, &changes), None);
        let file = overlay.path().join(FILES[0]);
        fs::write(&file, "mine").unwrap();
        assert_eq!(find_changed_file(&part, &changes), Some(file.clone()));
        fs::remove_file(&file).unwrap();
        assert_eq!(find_changed_file(&part, &changes), None);
    }

    #[test]
    fn files_that_are_not_those_of_the_release_are_refused() {
        let refused = |change: &dyn Fn(&Path)| {
            let (site, overlay) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let distribution = installed(site.path(), CODE);
            change(site.path());
            stage_files(&distribution, "python3.9", overlay.path()).unwrap_err().to_string()
        };
        let edited = refused(&|site| fs::write(site.join(FILES[1]), CODE.replace("3.9", "3.10")).unwrap());
        assert!(edited.contains("RECORD does not have its digest"), "{edited}");
        let gone = refused(&|site| fs::remove_file(site.join(FILES[0])).unwrap());
        assert!(gone.contains("cannot read"), "{gone}");
        let record = "aws_parallelcluster-3.9.3.dist-info/RECORD";
        let unlisted = refused(&|site| fs::write(site.join(record), "").unwrap());
        assert!(unlisted.contains("does not list"), "{unlisted}");
        let (site, overlay) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let other = stage_files(&installed(site.path(), "runtime=x"), "python3.9", overlay.path());
        assert!(other.unwrap_err().to_string().contains("exactly once"));
    }
}
