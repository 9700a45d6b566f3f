//! The built-in advisories as JSON: every guarded call reads them, and YAML takes ten times as long.
#![expect(clippy::expect_used, reason = "the build stops at a file that is not YAML")]

use std::path::Path;
use std::{env, fs};

const ADVISORIES: &str = "src/rules/advisories/advisories.yaml";

fn main() {
    println!("cargo::rerun-if-changed={ADVISORIES}");
    let text = fs::read_to_string(ADVISORIES).expect(ADVISORIES);
    let advisories: serde_json::Value = serde_yaml::from_str(&text).expect(ADVISORIES);
    let directory = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&directory).join("advisories.json"), advisories.to_string()).expect("OUT_DIR");
}
