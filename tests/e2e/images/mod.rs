//! `preflight images` and `preflight stack` on an account in which plant.py has made AMIs of every class.
//! Some tests also run the real pcluster's commands before and after a repair. Others show what remains if a
//! call fails, or if the shim is killed in the middle of a change.

mod deletion;
mod interruption;
mod listing;
mod parent;
mod refusal;
mod repair;

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::environments::{Environment, ROOT, RealSandbox};
use crate::support::machine::wait_for;
use crate::support::run::Run;

/// A moto server with orphans of every kind, and with AMIs that resemble orphans. Each AMI has a label
/// in plant.py.
struct World {
    server: Child,
    endpoint: String,
    planted: Value,
    directory: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(ROOT).join("tests/e2e/images").join(name)
}

/// The Python of the environment that has moto and boto3.
fn python() -> Command {
    let mut command = Command::new(Environment::named("moto").bin("python"));
    command.env_clear().env("LANG", "C.UTF-8").env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
    command
}

impl World {
    #[track_caller]
    fn plant() -> Self {
        let directory = tempfile::Builder::new().prefix("real-images-").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = python();
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env("HOME", directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().unwrap();
        wait_for("moto", || TcpStream::connect(("127.0.0.1", port)).ok());
        let mut world =
            Self { server, endpoint: format!("http://127.0.0.1:{port}"), planted: Value::Null, directory };
        world.planted = world.ask("plant.py");
        world
    }

    /// The JSON that a script prints.
    #[track_caller]
    fn ask(&self, name: &str) -> Value {
        let output = python().arg(script(name)).arg(&self.endpoint).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{name}: {error}\n{stderr}"))
    }

    fn state(&self) -> Value {
        self.ask("state.py")
    }

    fn sandbox(&self, environment: &str) -> RealSandbox {
        let mut sandbox = RealSandbox::of(environment);
        sandbox.set("AWS_ENDPOINT_URL", &self.endpoint);
        sandbox
    }

    #[track_caller]
    fn ami(&self, label: &str) -> &str {
        self.planted[label]["ami"].as_str().unwrap_or_else(|| panic!("{label} is not planted"))
    }

    fn id(&self, label: &str) -> &str {
        self.planted[label]["id"].as_str().unwrap()
    }

    fn proxy(&self, options: &[&str]) -> Proxy {
        let log = self.directory.path().join("log");
        let mut command = python();
        command.arg(script("proxy.py")).arg(&self.endpoint).arg("--log").arg(&log).args(options);
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut endpoint = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
        Proxy { server, endpoint: endpoint.trim().to_owned(), log }
    }
}

/// A proxy in front of the server: it logs, denies or breaks requests, and kills the shim.
struct Proxy {
    server: Child,
    endpoint: String,
    log: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The text on stdout without its line breaks.
fn words(ran: &Run) -> String {
    ran.stdout().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn images(sandbox: &RealSandbox, arguments: &[&str]) -> (Run, Value) {
    let all = [&["preflight", "images", "--format", "json"], arguments].concat();
    let ran = sandbox.pcluster(&all).run();
    let report = ran.json();
    (ran, report)
}

#[track_caller]
fn find<'a>(report: &'a Value, ami: &str) -> &'a Value {
    let images = report["images"].as_array().unwrap();
    images
        .iter()
        .find(|image| image["ami"] == ami)
        .unwrap_or_else(|| panic!("{ami} is not listed:\n{report:#}"))
}

impl World {
    /// Runs `preflight ARGUMENTS` at a terminal, and runs CODE when a prompt appears there.
    fn at_prompt(&self, sandbox: &RealSandbox, code: &str, arguments: &[&str]) -> Run {
        let python = Environment::named("moto").bin("python");
        let (prompt, shim) = (script("at_prompt.py"), sandbox.path("shim/pcluster"));
        let first = [prompt.to_str().unwrap(), &self.endpoint, "[y/N]", code, shim.to_str().unwrap()];
        sandbox.call(&python, &[&first[..], &["preflight"], arguments].concat()).run()
    }
}
