//! The README's recording and its console example, which show a stopped build and the repair. With the real
//! pcluster, a terminal shows the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::environment_copy::{BY_PIP, EnvironmentCopy, ROOT, With};
use crate::environments::{Aws, RealSandbox};
use crate::support::machine::on_this_machine;

/// The commands of the example, and the output below each.
fn example() -> Vec<(String, String)> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let (_, block) = readme.split_once("```console\n").unwrap();
    let (block, _) = block.split_once("```\n").unwrap();
    let mut runs: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => runs.push((command.to_owned(), String::new())),
            None => runs.last_mut().unwrap().1.extend([line, "\n"]),
        }
    }
    runs
}

/// The output on both streams, in order.
#[track_caller]
fn shown(sandbox: &RealSandbox, command: &str) -> String {
    let script = format!("exec 2>&1; {command}");
    sandbox.call(&on_this_machine("sh"), &["-c", &script]).run().stdout()
}

/// The words of a recording. Numbers are masked, because they differ from one release or machine to another.
fn words(picture: &Path) -> Vec<String> {
    let picture = fs::read_to_string(picture).unwrap();
    let texts = picture.split('<').filter(|tag| tag.starts_with("text "));
    let texts = texts.filter_map(|text| text.split_once('>')).map(|(_, text)| text.replace('\u{a0}', " "));
    texts
        .map(|text| {
            let masked = text.replace(|letter: char| letter.is_ascii_digit(), "#");
            masked.split_whitespace().map(|word| word.replace("##", "#").replace("##", "#") + " ").collect()
        })
        .collect()
}

#[test]
#[ignore = "long"]
fn the_recording_is_what_a_terminal_shows() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("demo.svg");
    let mut script = Command::new(Path::new(ROOT).join("scripts/demo-svg"));
    let shim = env!("CARGO_BIN_EXE_pcluster");
    let done = script.arg("--shim").arg(shim).arg("--output").arg(&file).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let recorded = words(&Path::new(ROOT).join("docs/demo.svg"));
    assert!(recorded.len() > 10, "{recorded:?}");
    assert_eq!(words(&file), recorded, "scripts/demo-svg renews docs/demo.svg");
}

#[test]
fn the_example_is_what_a_terminal_shows() {
    let aws = Aws::start();
    let mut copy = EnvironmentCopy::of(BY_PIP, With::Uv);
    copy.use_aws(&aws);
    copy.write("work/image-config.yaml", aws.configuration());
    let runs = example();
    assert_eq!(runs.len(), 3, "{runs:?}");
    for (command, expected) in runs {
        let shown = shown(&copy, &command);
        // `…` replaces output that the example leaves out.
        match expected.strip_suffix("…\n") {
            Some(beginning) => assert!(shown.starts_with(beginning), "$ {command}\n{shown}"),
            None => assert_eq!(shown, expected, "$ {command}"),
        }
    }
}
