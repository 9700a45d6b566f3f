//! SIGKILL at every failpoint and at random moments of a real repair: after the next command, the environment
//! is either completely repaired or byte for byte the old one, and pcluster works.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::environment_copy::{BY_PIP, BY_UV, EnvironmentCopy, With};
use crate::support::machine::wait_for;

/// Runs the next command after a kill. Asserts that the environment is then either completely repaired or the
/// old one, and returns whether it is repaired.
#[track_caller]
fn survived(copy: &EnvironmentCopy, repaired: &Path, when: &str) -> bool {
    let next = copy.pcluster(&["preflight", "--no-synth"]).run();
    let is_repaired = match next.status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{when}: {next}"),
    };
    copy.pcluster_works(when);
    if is_repaired {
        copy.is_the_same_as(repaired, when);
        copy.pcluster(&["preflight", "undo"]).run().exits(0);
    }
    copy.is_as_before(when);
    is_repaired
}

fn repaired_once(copy: &EnvironmentCopy) -> (std::path::PathBuf, Duration) {
    // The first repair fills the installer's cache. So the second repair, which is timed, takes as long as a
    // later repair would take if it were not killed.
    copy.fix(&[]).exits(0);
    let repaired = copy.keep_copy();
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    let since = Instant::now();
    copy.fix(&[]).exits(0);
    let duration = since.elapsed();
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    copy.is_as_before("undone");
    (repaired, duration)
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn at_every_named_step() {
    let all = [
        "stage",
        "proof",
        "snapshot",
        "snapshot@200",
        "journal",
        "token",
        "remove",
        "remove@200",
        "place",
        "place@200",
        "record",
        "record@9",
        "verification",
        "close",
        "closed",
    ];
    // The environment made by pip has bytecode, so it has more files, and a repair reaches these steps more
    // often. `STEP@N` is the Nth time.
    for (name, steps) in [(BY_UV, &all[..]), (BY_PIP, &["snapshot@400", "remove@400", "place@300"])] {
        let mut copy = EnvironmentCopy::of(name, With::Uv);
        let (repaired, _) = repaired_once(&copy);
        for &step in steps {
            copy.set("PCLUSTER_SHIM_FAULT", format!("kill:{step}"));
            let killed = copy.fix(&[]);
            assert_eq!(killed.status.code(), None, "{step}: {killed}");
            copy.unset("PCLUSTER_SHIM_FAULT");
            copy.wait_for_children();
            let is_repaired = survived(&copy, &repaired, step);
            assert_eq!(is_repaired, step == "closed", "{step}");
            copy.left_nothing(step);
        }
    }
}

/// Random numbers that are the same in every run, by xorshift.
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

/// The moment at which a repair is killed.
#[derive(Clone, Copy)]
enum Moment {
    /// After this fraction of the repair's usual duration.
    Of(f64),
    /// This long after the snapshot appears. The exchange of files follows the snapshot, and is so short that
    /// random fractions of the whole repair would miss it.
    Exchanging(Duration),
}

#[test]
fn at_some_moments() {
    killed_at_moments(4, 3);
}

#[test]
#[ignore = "long"]
fn at_fifty_moments() {
    killed_at_moments(50, 10);
}

fn killed_at_moments(spread: usize, dense: usize) {
    let mut seeded = Seeded(0x1153_0204);
    let spread: Vec<Moment> = (0..spread).map(|_| Moment::Of(seeded.next())).collect();
    let dense = (0..dense).map(|_| Moment::Exchanging(Duration::from_millis(120).mul_f64(seeded.next())));
    let moments: Vec<Moment> = spread.into_iter().chain(dense).collect();
    // Two users at the same time, each with their own environment.
    let halves: Vec<Vec<bool>> = std::thread::scope(|scope| {
        let users: Vec<_> = [0, 1]
            .map(|user| {
                let mine: Vec<Moment> = moments.iter().skip(user).step_by(2).copied().collect();
                scope.spawn(move || killed_at(&mine))
            })
            .into_iter()
            .collect();
        users.into_iter().map(|user| user.join().unwrap()).collect()
    });
    let all = halves.concat();
    let whole = all.iter().filter(|repaired| **repaired).count();
    let summary =
        format!("\n{} kills: {whole} repaired, {} as before, none lost\n", all.len(), all.len() - whole);
    // The summary is written directly to stderr, so that it is printed even if the test passes.
    std::io::stderr().write_all(summary.as_bytes()).unwrap();
    assert!(whole < all.len(), "no kill came in time");
}

/// Kills a repair at each of these moments. Returns for each kill whether the environment was repaired after
/// the next command.
fn killed_at(moments: &[Moment]) -> Vec<bool> {
    let copy = EnvironmentCopy::of(BY_UV, With::Uv);
    let (repaired, duration) = repaired_once(&copy);
    let killed = |moment: &Moment| {
        let mut command = copy.pcluster(&["preflight", "fix"]).command();
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let when = match *moment {
            Moment::Of(part) => {
                std::thread::sleep(duration.mul_f64(part));
                format!("killed at {part:.3} of {} ms", duration.as_millis())
            }
            Moment::Exchanging(after) => {
                wait_for("the exchange to begin", || copy.has_snapshot().then_some(()));
                std::thread::sleep(after);
                format!("killed {} ms into the exchange", after.as_millis())
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        copy.wait_for_children();
        survived(&copy, &repaired, &when)
    };
    moments.iter().map(killed).collect()
}

impl EnvironmentCopy {
    /// Whether a repair has begun to copy what it will replace.
    pub(crate) fn has_snapshot(&self) -> bool {
        let environments = self.path("home/.local/state/pcluster-shim/environments");
        let homes = environments.read_dir().into_iter().flatten().flatten();
        let mut entries = homes.flat_map(|home| home.path().read_dir().into_iter().flatten().flatten());
        entries.any(|entry| entry.file_name().to_string_lossy().starts_with("snapshot-"))
    }
}
