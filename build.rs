//! The built-in advisories as a table of Rust: every guarded call needs them, and to read 30 kB of YAML takes longer
//! than all else of an unchanged repeat. A test compares the table with the file.
#![expect(clippy::expect_used, reason = "the build stops at a file that is no list of advisories")]

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use serde_json::Value;

const ADVISORIES: &str = "src/rules/advisories.yaml";

const TEXTS: [&str; 10] =
    ["id", "title", "pcluster", "python", "package", "affected", "runtime", "refused_from", "effect", "cost"];

const TEXTS_OF_FIX: [&str; 4] = ["packages", "upgrade", "downgrade", "advice"];

fn main() {
    println!("cargo::rerun-if-changed={ADVISORIES}");
    let text = fs::read_to_string(ADVISORIES).expect(ADVISORIES);
    let advisories: Vec<Value> = serde_yaml::from_str(&text).expect(ADVISORIES);
    let table = format!("&[{}]", advisories.iter().map(to_rust).collect::<String>());
    let directory = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&directory).join("advisories.rs"), table).expect("OUT_DIR");
}

fn to_rust(advisory: &Value) -> String {
    let level = advisory["level"].as_str().expect("level");
    let level = level[..1].to_owned() + &level[1..].to_lowercase();
    let shows = advisory["shows"].as_str().expect("shows");
    let shows = shows[..1].to_uppercase() + &shows[1..];
    let references: Vec<&str> =
        advisory["references"].as_array().expect("references").iter().filter_map(Value::as_str).collect();
    format!(
        "BuiltIn {{ level: Level::{level}, shows: Shows::{shows}, {} fix: BuiltInFix {{ {} }}, only_constraints: {}, references: &{references:?} }}, ",
        texts_to_rust(advisory, &TEXTS),
        texts_to_rust(&advisory["fix"], &TEXTS_OF_FIX),
        advisory["only_constraints"] == true,
    )
}

/// `Option<&str>` is written by Debug as Rust reads it.
fn texts_to_rust(mapping: &Value, keys: &[&str]) -> String {
    let mut fields = String::new();
    for key in keys {
        write!(fields, "{key}: {:?}, ", mapping[key].as_str()).expect("a String takes every text");
    }
    fields
}
