//! argv and environment → what was asked. No file is touched.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::cli::settings::{InstallerChoice, Strategy};

/// Which of the three programs this call is.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    PassThrough(Vec<OsString>),
    BuildImage(Vec<OsString>),
    /// The arguments after `preflight`.
    Preflight(Vec<OsString>),
}

impl Call {
    /// A subcommand of the real pcluster is its first argument that is no option, and is never
    /// abbreviated. Guarding a call that the real parser then refuses does no harm: it refuses.
    #[must_use]
    pub fn read(command_line: Vec<OsString>) -> Self {
        let mut command_line = command_line.into_iter();
        let name = command_line.next().unwrap_or_default();
        let arguments: Vec<OsString> = command_line.collect();
        if Path::new(&name).file_name() == Some(OsStr::new("pcluster-preflight")) {
            return Self::Preflight(arguments);
        }
        let is_option = |argument: &&OsString| argument.as_bytes().starts_with(b"-");
        match arguments.iter().find(|argument| !is_option(argument)) {
            Some(command) if command == "build-image" => Self::BuildImage(arguments),
            Some(command) if command == "preflight" && arguments[0] == "preflight" => {
                Self::Preflight(arguments[1..].to_vec())
            }
            _ => Self::PassThrough(arguments),
        }
    }
}

/// A call of `build-image` in its plainest form.
///
/// The only faithful parser is the real one, which costs a Python. This one exists so that an
/// environment with a known fault is answered at once: it accepts nothing that the real parser
/// would read differently, and gives up on the rest.
#[derive(Debug, PartialEq, Eq)]
pub struct PlainBuildImage {
    pub configuration: PathBuf,
}

impl PlainBuildImage {
    /// `short_options`: `-c`, `-i` and `-r` exist from 3.1.1 on.
    #[must_use]
    pub fn read(arguments: &[OsString], short_options: bool) -> Option<Self> {
        let mut words = arguments.iter().map(|argument| argument.to_str());
        if words.next()?? != "build-image" {
            return None;
        }
        let (mut configuration, mut image_id) = (None, None);
        while let Some(word) = words.next() {
            let (option, joined) = match word?.split_once('=') {
                Some((option, value)) if option.starts_with("--") => (option, Some(value)),
                _ => (word?, None),
            };
            if option == "--debug" && joined.is_none() {
                continue;
            }
            let value = match joined {
                Some(value) => value,
                None => words.next()??,
            };
            if value.is_empty() || value.starts_with('-') {
                return None;
            }
            match option {
                "--image-configuration" => configuration = Some(value),
                "-c" if short_options => configuration = Some(value),
                "--image-id" => image_id = Some(value),
                "-i" if short_options => image_id = Some(value),
                "--region" | "--query" => {}
                "-r" if short_options => {}
                "--dryrun" | "--rollback-on-failure" if matches!(value, "true" | "false") => {}
                _ => return None,
            }
        }
        image_id.filter(|id| is_image_id(id))?;
        Some(Self { configuration: configuration?.into() })
    }
}

/// `^[a-zA-Z][a-zA-Z0-9-]+$`, as the API's specification has it.
fn is_image_id(id: &str) -> bool {
    id.len() > 1
        && id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.chars().all(|other| other.is_ascii_alphanumeric() || other == '-')
}

/// Checks what `pcluster build-image` would do, before it costs an hour of EC2.
#[derive(Debug, Parser)]
#[command(name = "pcluster preflight", version)]
#[command(after_help = "Exit status: 0 ready, 1 blocked, 2 usage or configuration error, 3 unknown,\n\
                        127 no real pcluster found.")]
pub struct Preflight {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub check: Check,
    #[command(flatten)]
    pub common: Common,
}

/// Whether `--format json` stands anywhere: what a usage error is told by, where nothing is parsed.
#[must_use]
pub fn asks_for_json(arguments: &[OsString]) -> bool {
    let joined = arguments.iter().any(|argument| argument == "--format=json");
    joined || arguments.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}

impl Preflight {
    /// # Errors
    /// clap's, and options of `check` before the name of a subcommand, which would be lost.
    pub fn read(command_line: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let read = Self::try_parse_from(command_line)?;
        if read.command.is_some() && read.check != Check::default() {
            let message = "the options of a subcommand stand behind its name";
            return Err(Self::command().error(clap::error::ErrorKind::ArgumentConflict, message));
        }
        Ok(read)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run every check (the default)
    Check(Check),
    /// Repair the environment; proven beside it first
    Fix(Fix),
    /// Put back, byte for byte, what the last fix replaced
    Undo,
    /// Check a template that already exists
    Template {
        /// JSON, YAML, or the output of get-template; - is standard input
        file: PathBuf,
    },
    /// Show which pcluster is guarded, and how it was found
    Where,
    /// List the known faults, or show one
    Advisories {
        /// An advisory's id
        id: Option<String>,
    },
    /// Print a completion script for a shell
    Completions { shell: Shell },
    /// Print the manual page
    Man,
    /// Print the version
    Version,
}

#[derive(Debug, Args, Default, Clone, PartialEq, Eq)]
pub struct Check {
    /// The image configuration (a minimal one)
    #[arg(short = 'c', long, value_name = "FILE")]
    pub image_configuration: Option<PathBuf>,
    /// The image id to check with
    #[arg(short = 'i', long, value_name = "ID")]
    pub image_id: Option<String>,
    /// The AWS region
    #[arg(short = 'r', long)]
    pub region: Option<String>,
    /// Check the packages only; start no Python
    #[arg(long)]
    pub no_synth: bool,
    /// Ignore what is remembered
    #[arg(long)]
    pub fresh: bool,
    /// Repair what is blocked, then check again
    #[arg(long)]
    pub fix: bool,
}

#[derive(Debug, Args, Default, Clone)]
pub struct Fix {
    /// Stage and prove the repair, say what it would do, and touch nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Which way to move the packages at fault (upgrade)
    #[arg(long, value_enum)]
    pub strategy: Option<Strategy>,
    /// Keep the repair beside the environment, for build-image only
    #[arg(long)]
    pub isolated: bool,
    /// What resolves and fetches packages (auto)
    #[arg(long, value_enum)]
    pub installer: Option<InstallerChoice>,
    /// Print a requirements file that does the same by hand
    #[arg(long)]
    pub print_requirements: bool,
}

#[derive(Debug, Args, Default, Clone)]
pub struct Common {
    /// The report's form (human)
    #[arg(long, global = true, value_enum, default_value_t)]
    #[arg(value_name = "human|json", hide_possible_values = true, hide_default_value = true)]
    pub format: Format,
    /// The real pcluster
    #[arg(long, global = true, value_name = "PATH")]
    pub real: Option<PathBuf>,
    /// Colour in the report (auto)
    #[arg(long, global = true, value_enum, default_value_t)]
    #[arg(value_name = "auto|always|never", hide_possible_values = true, hide_default_value = true)]
    pub color: Color,
    /// Print nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say what is being done
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Human,
    Json,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Whether text for stdout is coloured.
    #[must_use]
    pub fn applies(self) -> bool {
        use std::io::IsTerminal as _;
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && env::var_os("TERM").is_none_or(|value| value != "dumb")
                    && std::io::stdout().is_terminal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_first_argument_that_is_no_option_names_the_command() {
        let call = |line| Call::read(words(line));
        assert!(matches!(call("pcluster build-image -c x"), Call::BuildImage(_)));
        assert!(matches!(call("pcluster --debug build-image"), Call::BuildImage(_)));
        assert!(matches!(call("/a/pcluster-preflight -q"), Call::Preflight(rest) if rest == words("-q")));
        assert!(matches!(call("pcluster preflight where"), Call::Preflight(rest) if rest == words("where")));
        assert!(matches!(call("pcluster -h preflight"), Call::PassThrough(_)));
        assert!(matches!(call("pcluster build-imag"), Call::PassThrough(_)));
        assert!(matches!(call("pcluster list-images --x build-image"), Call::PassThrough(_)));
        assert!(matches!(call("pcluster"), Call::PassThrough(_)));
        assert!(matches!(Call::read(Vec::new()), Call::PassThrough(_)));
    }

    #[test]
    fn the_plain_form_is_read_and_everything_else_is_left_to_the_real_parser() {
        let plain = |line: &str| PlainBuildImage::read(&words(&format!("build-image {line}")), true);
        let file = |name: &str| Some(PlainBuildImage { configuration: name.into() });
        assert_eq!(plain("-c f -i my-image"), file("f"));
        assert_eq!(plain("--image-configuration=f --image-id my-image -r eu-west-1 --debug"), file("f"));
        assert_eq!(plain("-c f -c g -i ab --dryrun true"), file("g"));
        for left in [
            "",
            "-h",
            "-c f",
            "-i ab",
            "-cf -i ab",
            "-c=f -i ab",
            "--image-conf f -i ab",
            "-c f -i 1ab",
            "-c f -i a",
            "-c f -i ab -c",
            "-c f -i ab x",
            "-c f -i ab --dryrun maybe",
            "-c f -i ab --suppress-validators ALL",
            "-c -x -i ab",
        ] {
            assert_eq!(plain(left), None, "{left}");
        }
        assert_eq!(PlainBuildImage::read(&words("build-image -c f -i ab"), false), None);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Preflight::command().debug_assert();
    }
}
