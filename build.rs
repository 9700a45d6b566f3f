//! Converts advisories.yaml and combinations.yaml to JSON, which is compiled into the program. Every guarded
//! call reads this JSON, and reading YAML would take ten times as long.
#![expect(clippy::expect_used, reason = "the build stops at a file that is not YAML")]

use std::path::Path;
use std::{env, fs};

const DIRECTORY: &str = "src/rules/advisories";

fn main() {
    for name in ["advisories", "combinations"] {
        convert(name);
    }
}

fn convert(name: &str) {
    let file = format!("{DIRECTORY}/{name}.yaml");
    println!("cargo::rerun-if-changed={file}");
    let text = fs::read_to_string(&file).expect(&file);
    let list: serde_json::Value = serde_yaml::from_str(&text).expect(&file);
    let directory = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&directory).join(format!("{name}.json")), list.to_string()).expect("OUT_DIR");
}
