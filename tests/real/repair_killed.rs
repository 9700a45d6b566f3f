//! SIGKILL at every named step and at any moment of a real repair: after the next command the
//! environment is wholly repaired or byte for byte the old one, and pcluster works.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::workbench::{BY_PIP, BY_UV, Bench, With};

/// After a kill: the next command, then a look. True where the repair had been complete.
#[track_caller]
fn survived(bench: &Bench, repaired: &Path, when: &str) -> bool {
    let next = bench.shim(&["preflight", "--no-synth"]);
    let is_repaired = match next.status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{when}: {next}"),
    };
    bench.pcluster_works(when);
    if is_repaired {
        bench.is_the_same_as(repaired, when);
        bench.shim(&["preflight", "undo"]).ends_with(0);
    }
    bench.is_as_before(when);
    is_repaired
}

fn repaired_once(bench: &Bench) -> (std::path::PathBuf, Duration) {
    // With everything in the installer's cache, as for the ones that are killed.
    bench.fix(&[]).ends_with(0);
    let repaired = bench.keep_copy();
    bench.shim(&["preflight", "undo"]).ends_with(0);
    let since = Instant::now();
    bench.fix(&[]).ends_with(0);
    let duration = since.elapsed();
    bench.shim(&["preflight", "undo"]).ends_with(0);
    bench.is_as_before("undone");
    (repaired, duration)
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn at_every_named_step() {
    for name in [BY_UV, BY_PIP] {
        let mut bench = Bench::of(name, With::Uv);
        let (repaired, _) = repaired_once(&bench);
        let middle = ["snapshot@900", "remove@1", "remove@900", "place@1", "place@900"];
        let steps = ["stage", "prove", "snapshot", "journal", "verify", "close", "closed"];
        for step in steps.into_iter().chain(middle) {
            bench.set("PCLUSTER_SHIM_FAULT", format!("kill:{step}"));
            let killed = bench.fix(&[]);
            assert_eq!(killed.status.code(), None, "{step}: {killed}");
            bench.unset("PCLUSTER_SHIM_FAULT");
            let is_repaired = survived(&bench, &repaired, step);
            assert_eq!(is_repaired, step == "closed", "{step}");
            bench.left_nothing(step);
        }
    }
}

/// Numbers that are the same in every run: xorshift.
struct Seeded(u64);

impl Seeded {
    /// Between 0 and 1.
    #[expect(clippy::cast_precision_loss, reason = "32 bits fit")]
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as f64 / f64::from(u32::MAX)
    }
}

#[test]
fn at_fifty_moments() {
    let bench = Bench::of(BY_UV, With::Uv);
    let (repaired, duration) = repaired_once(&bench);
    let mut seeded = Seeded(0x1153_0204);
    let (mut whole, mut old, mut untouched) = (0, 0, 0);
    for moment in 0..50 {
        let part = seeded.next();
        let mut command = bench.command(&bench.path("shim/pcluster"), &["preflight", "fix"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(duration.mul_f64(part));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        untouched += u32::from(ended.success());
        let when = format!("kill {moment} at {part:.3} of {} ms", duration.as_millis());
        if survived(&bench, &repaired, &when) {
            whole += 1;
        } else {
            old += 1;
        }
    }
    let summary = format!(
        "\n50 kills of a repair of {} ms: {whole} repaired ({untouched} had ended before), {old} as before, none lost\n",
        duration.as_millis()
    );
    // Past the test's own capture: how the moments fell is worth a look.
    std::io::stderr().write_all(summary.as_bytes()).unwrap();
    assert!(old > 0, "no kill came in time");
}
