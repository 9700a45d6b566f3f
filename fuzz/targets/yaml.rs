//! YAML: if a text passes the check of its size, the loaded value is not too large either.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pcluster_shim::text::yaml::{parse, size::is_too_large};
use pcluster_shim_fuzz::input;
use serde_yaml::Value;

/// Upper bound for the nodes and bytes of a loaded value, four times the limit of `yaml::size`.
const MAX_EXPANDED: usize = 8 << 20;

/// The parser's own limit for the levels of a value.
const MAX_DEPTH: usize = 128;

/// The size (nodes plus bytes of text), and the number of levels.
fn measure(value: &Value) -> (usize, usize) {
    match value {
        Value::String(text) => (1 + text.len(), 0),
        Value::Sequence(list) => list
            .iter()
            .map(measure)
            .fold((1, 1), |(size, depth), (own, level)| (size + own, depth.max(1 + level))),
        Value::Mapping(map) => map.iter().fold((1, 1), |(size, depth), (key, value)| {
            let ((key, below_key), (value, below)) = (measure(key), measure(value));
            (size + key + value, depth.max(1 + below_key.max(below)))
        }),
        Value::Tagged(tagged) => measure(&tagged.value),
        Value::Null | Value::Bool(_) | Value::Number(_) => (1, 0),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let Ok(text) = std::str::from_utf8(&bytes) else { return };
    if !text.contains('*') && text.len() < 1 << 20 {
        assert!(!is_too_large(text), "without an alias it is too large");
    }
    match parse::<Value>(text) {
        Ok(value) => {
            let (size, depth) = measure(&value);
            assert!(size <= MAX_EXPANDED, "{size} nodes and bytes");
            assert!(depth <= MAX_DEPTH, "{depth} levels");
            // A byte order mark before the text must not make the parser panic.
            let _ = parse::<Value>(&format!("\u{feff}{text}"));
        }
        Err(message) => assert!(!message.is_empty()),
    }
});
