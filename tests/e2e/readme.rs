//! The README's picture of a block and a fix: it is what a terminal shows of the real thing.

use std::fs;
use std::path::Path;

use crate::environments::{Aws, Scene, program};
use crate::workbench::{BY_PIP, Bench, ROOT, With};

/// The commands of the picture, and what stands below each.
fn picture() -> Vec<(String, String)> {
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

/// Both streams, as they come.
#[track_caller]
fn shown(scene: &Scene, command: &str) -> String {
    let script = format!("exec 2>&1; {command}");
    scene.run(&program("sh"), &["-c", &script]).out()
}

#[test]
fn the_picture_is_what_a_terminal_shows() {
    let aws = Aws::start();
    let mut bench = Bench::of(BY_PIP, With::Uv);
    bench.use_aws(&aws);
    bench.write("image-config.yaml", aws.configuration());
    let runs = picture();
    assert_eq!(runs.len(), 3, "{runs:?}");
    for (command, expected) in runs {
        let shown = shown(&bench, &command);
        // The rest is the real pcluster's.
        match expected.strip_suffix("…\n") {
            Some(beginning) => assert!(shown.starts_with(beginning), "$ {command}\n{shown}"),
            None => assert_eq!(shown, expected, "$ {command}"),
        }
    }
}
