//! config.yaml, from its text to the settings and back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pcluster_shim::cli::settings::{Origin, Settings};
use pcluster_shim::model::options::Mode;
use pcluster_shim::text::printable::name_of;
use pcluster_shim_fuzz::input;
use serde_json::{Map, Value};

/// The settings in the form of config.yaml, as `preflight where` lists them.
fn list(settings: &Settings) -> Map<String, Value> {
    let real = (settings.real.as_deref(), Origin::File);
    let listed = settings.list(real).into_iter().filter(|setting| setting.name != "config");
    listed.map(|setting| (setting.name.to_owned(), setting.value)).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let Ok(text) = std::str::from_utf8(&bytes) else { return };
    let settings = match Settings::parse(text) {
        Ok(settings) => settings,
        Err(message) => return assert!(!message.is_empty()),
    };
    assert!((1..=86_400).contains(&settings.timeout.as_secs()));
    assert!(Mode::ACCEPTED.split(", ").any(|name| name == name_of(settings.mode)));
    let listed = list(&settings);
    let written = Value::Object(listed.clone()).to_string();
    let again = Settings::parse(&written).expect("what is listed is a config.yaml");
    assert_eq!(list(&again), listed);
});
