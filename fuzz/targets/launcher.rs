//! Launchers: the head of a file named pcluster, and the variable that guards against loops.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pcluster_shim::environment::console_script_text::read_body;
use pcluster_shim::environment::launcher::{ConsoleScript, Launcher};
use pcluster_shim::environment::loop_guard::LoopGuard;
use pcluster_shim_fuzz::input;

fn check_script(script: &ConsoleScript, text: &[u8]) {
    if let Some((program, flags)) = script.interpreter(Path::new("/v/bin")) {
        assert!(program.is_absolute(), "{program:?} depends on the directory of the call");
        let name = program.file_name().expect("an interpreter has a name").as_bytes();
        assert!(name.starts_with(b"python") || name.starts_with(b"pypy"), "{program:?} is no Python");
        for flag in flags {
            let flag = flag.as_bytes();
            let has_value = flag.starts_with(b"-W") || flag.starts_with(b"-X");
            assert!(flag.starts_with(b"-") && flag.len() > 1, "{flag:?} would be run as a script");
            let runs_other = flag[1..].iter().any(|letter| b"cm-".contains(letter));
            assert!(has_value || !runs_other, "with {flag:?} Python does not run the script");
        }
    }
    if let Some(requires) = &script.requires {
        assert!(requires.bytes().all(|byte| byte.is_ascii_graphic() && !b"'\"\\".contains(&byte)));
    }
    // With one more line, the script could start any program, so it is no longer a console script.
    let longer = [text, b"\nimport other\n"].concat();
    assert_eq!(Launcher::parse(&longer), Launcher::Other);
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let launcher = Launcher::parse(&bytes);
    assert!(["shebang", "env shebang", "sh trampoline", "wrapper"].contains(&launcher.name()));
    if let Launcher::ConsoleScript(script) = &launcher {
        check_script(script, &bytes);
    }
    if let Ok(text) = std::str::from_utf8(&bytes) {
        let _ = read_body(text);
    }
    if let Some(guard) = LoopGuard::parse(OsStr::from_bytes(&bytes)) {
        let value = guard.with(Path::new("/v/bin/pcluster"));
        let again = LoopGuard::parse(&value).expect("the guard reads what it has written");
        // The depth in the guard's value never decreases from one start to the next.
        let next = again.with(Path::new("/v/bin/pcluster"));
        assert!(depth(&next) >= depth(&value), "{value:?} is followed by {next:?}");
    }
});

fn depth(value: &OsStr) -> u64 {
    let text = value.to_string_lossy();
    text.split('/').nth(1).and_then(|depth| depth.parse().ok()).expect("the value has a depth")
}
