//! The command line of `preflight`, as clap reads it. Parsing opens no file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Args, ColorChoice, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::model::options::{InstallerChoice, Strategy};

/// Check what `pcluster build-image` would do, before it costs an hour of EC2
#[derive(Debug, Parser)]
#[command(name = "pcluster preflight", version)]
#[command(after_help = "Exit status: 0 ready, 1 blocked, 2 usage or configuration error, 3 unknown,\n\
                        127 no real pcluster found.")]
pub struct Preflight {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub check: CheckArgs,
    #[command(flatten)]
    pub common: Common,
}

/// Whether `--format json` is given anywhere. This decides the format of a usage error, for which there are
/// no parsed arguments.
pub fn asks_for_json(arguments: &[OsString]) -> bool {
    let joined = arguments.iter().any(|argument| argument == "--format=json");
    joined || arguments.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}

impl Preflight {
    pub fn read(command_line: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let conflict = |message| Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        let parsed = Self::try_parse_from(command_line)?;
        if parsed.command.is_some() && parsed.check != CheckArgs::default() {
            return conflict("options of a subcommand must come after its name");
        }
        let has_report = matches!(
            parsed.command,
            None | Some(Command::Check(_) | Command::Template { .. } | Command::Stack { .. })
        );
        if matches!(parsed.common.format, Format::Junit | Format::Github) && !has_report {
            return conflict(
                "'--format junit' and '--format github' can only be used with check, template and stack",
            );
        }
        if let Some(message) = refuse_aws(parsed.check_arguments()) {
            return Err(Self::command().error(ErrorKind::MissingRequiredArgument, message));
        }
        // clap does not report a conflict with an option that every subcommand has.
        if parsed.check_arguments().all && parsed.common.real.is_some() {
            return conflict("the argument '--all' cannot be used with '--real <PATH|DIR>'");
        }
        if parsed.common.output.is_some() && (!has_report || parsed.check_arguments().all) {
            return conflict(
                "the argument '--output <FILE>' can only be used with check, template and stack, and not with '--all'",
            );
        }
        Ok(parsed)
    }

    /// The arguments of `check`, which is also the command if the user names none.
    fn check_arguments(&self) -> &CheckArgs {
        match &self.command {
            Some(Command::Check(check)) => check,
            _ => &self.check,
        }
    }
}

/// `--aws` and `--parent` need a configuration, because it names the parent image. With `--print-policy`,
/// `--aws` needs none.
fn refuse_aws(check: &CheckArgs) -> Option<&'static str> {
    let asks = check.parent.is_some() || check.aws && !check.print_policy;
    (asks && check.image_configuration.is_none())
        .then_some("'--aws' and '--parent' need '--image-configuration <FILE>'")
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run every check (the default)
    Check(CheckArgs),
    /// Repair the environment, after proving that the repair works
    Fix(FixArgs),
    /// Restore, byte for byte, what the last fix replaced
    Undo {
        /// List what can be undone, the newest first
        #[arg(long)]
        list: bool,
    },
    /// Check a template that already exists
    Template {
        /// JSON, YAML, or the output of get-template; - is standard input
        file: PathBuf,
        /// Also block on warnings
        #[arg(long, value_enum, value_name = "warnings", hide_possible_values = true)]
        deny: Option<Deny>,
    },
    /// Check the template of a stack in AWS, live or deleted
    Stack {
        /// The stack's name (the image id) or its stack id
        #[arg(value_name = "NAME|STACK-ID", value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// The AWS region
        #[arg(short = 'r', long)]
        region: Option<String>,
        /// Also block on warnings
        #[arg(long, value_enum, value_name = "warnings", hide_possible_values = true)]
        deny: Option<Deny>,
    },
    /// Find AMIs left by broken builds; repair or delete them
    Images(ImagesArgs),
    /// Print constraints with which an environment can build images
    Constraints {
        /// A release of aws-parallelcluster [default: the installed one]
        version: Option<String>,
        /// The Python version [default: all, by markers]
        #[arg(long, value_name = "X.Y")]
        python: Option<String>,
        /// Pin aws-parallelcluster itself too
        #[arg(long)]
        pin: bool,
    },
    /// Show the real pcluster, what names it, which calls are guarded
    Where,
    /// Print a config.yaml with every key, its default and its origin
    Config,
    /// List the advisories, or show one
    Advisories {
        /// An advisory's id, or a part of it
        id: Option<String>,
    },
    /// Install the shim, as install.sh does (options: install --help)
    #[command(disable_help_flag = true)]
    Install {
        /// The arguments of install.sh
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Remove what install has installed (options: uninstall --help)
    #[command(disable_help_flag = true)]
    Uninstall {
        /// The arguments of install.sh
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Print a completion script for a shell
    Completions { shell: Shell },
    /// Print the manual page
    Man,
    /// Print the version
    Version,
}

/// The findings that block in addition to errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Deny {
    Warnings,
}

#[derive(Debug, Args, Default, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
pub struct CheckArgs {
    /// The configuration [default: a minimal one]
    #[arg(short = 'c', long, value_name = "FILE")]
    pub image_configuration: Option<PathBuf>,
    /// The image id to check with
    #[arg(short = 'i', long, value_name = "ID")]
    pub image_id: Option<String>,
    /// The AWS region
    #[arg(short = 'r', long)]
    pub region: Option<String>,
    /// Check only packages; build no template
    #[arg(long)]
    pub no_synth: bool,
    /// Repair as `fix` does, then check again
    #[arg(long)]
    pub fix: bool,
    /// Ask AWS about parent, components and subnet
    #[arg(long, conflicts_with = "no_synth")]
    pub aws: bool,
    /// Output of describe-images for the parent
    #[arg(long, value_name = "FILE", conflicts_with_all = ["aws", "no_synth"])]
    pub parent: Option<PathBuf>,
    /// Print the IAM policy that --aws needs
    #[arg(long, requires = "aws")]
    pub print_policy: bool,
    /// Also block on warnings
    #[arg(long, value_enum, value_name = "warnings", hide_possible_values = true)]
    pub deny: Option<Deny>,
    /// Check every pcluster that can be found
    #[arg(long, conflicts_with = "fix")]
    pub all: bool,
    /// Search below this directory too
    #[arg(long, value_name = "DIR", requires = "all")]
    pub root: Vec<PathBuf>,
}

#[derive(Debug, Args, Default, Clone)]
pub struct FixArgs {
    /// Findings [default: all that block a build or predict its failure]
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Stage and prove the repair, print what it would do, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How to change packages [default: upgrade]
    #[arg(long, value_enum)]
    pub strategy: Option<Strategy>,
    /// Keep the repair outside the environment, for build-image only
    #[arg(long)]
    pub isolated: bool,
    /// Program that resolves and fetches packages [default: auto]
    #[arg(long, value_enum)]
    pub installer: Option<InstallerChoice>,
    /// Print a requirements file for a manual repair
    #[arg(long)]
    pub print_requirements: bool,
}

#[derive(Debug, Args, Default, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
pub struct ImagesArgs {
    /// Restore the lost tags of the AMIs
    #[arg(long, conflicts_with = "delete")]
    pub repair: bool,
    /// Delete AMIs, their snapshots and artifacts
    #[arg(long)]
    pub delete: bool,
    /// Only AMIs with this image id; may be repeated
    #[arg(short = 'i', long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub image_id: Vec<String>,
    /// Only this AMI; may be repeated
    #[arg(long, value_name = "AMI", value_parser = read_ami)]
    pub image: Vec<String>,
    /// Only AMIs older than this, such as 90d or 12w
    #[arg(long, value_name = "AGE", value_parser = read_days)]
    pub older_than: Option<i64>,
    /// The AWS region
    #[arg(short = 'r', long, conflicts_with = "all_regions")]
    pub region: Option<String>,
    /// Every region of the account
    #[arg(long)]
    pub all_regions: bool,
    /// Also search this `CustomS3Bucket`
    #[arg(long, value_name = "NAME", value_parser = read_bucket)]
    pub bucket: Vec<String>,
    /// Print what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Print an IAM policy: list, repair or delete
    #[arg(long, value_enum, value_name = "ACTION", hide_possible_values = true)]
    pub print_policy: Option<Policy>,
}

/// Parses the id of an AMI. Wildcards are refused, although EC2 would accept them.
fn read_ami(value: &str) -> Result<String, &'static str> {
    let is_ami = value.strip_prefix("ami-").is_some_and(|id| {
        !id.is_empty() && id.bytes().all(|letter| letter.is_ascii_digit() || letter.is_ascii_lowercase())
    });
    if is_ami { Ok(value.into()) } else { Err("expected an AMI id such as ami-0123456789abcdef0") }
}

/// Parses an age in days or weeks.
fn read_days(value: &str) -> Result<i64, &'static str> {
    let weeks = value.strip_suffix('w').map(|number| (number, 7));
    let read =
        |(number, days): (&str, i64)| number.parse::<u16>().ok().map(|number| i64::from(number) * days);
    weeks
        .or(value.strip_suffix('d').map(|number| (number, 1)))
        .and_then(read)
        .ok_or("expected an age such as 90d or 12w")
}

fn read_bucket(value: &str) -> Result<String, &'static str> {
    let is_bucket = !value.is_empty() && !value.contains(['/', ':']);
    if is_bucket { Ok(value.into()) } else { Err("expected the name of a bucket, without s3:// or a path") }
}

/// What an IAM policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    List,
    Repair,
    Delete,
}

#[derive(Debug, Args, Default, Clone)]
pub struct Common {
    /// human, json; for checks also junit, github
    #[arg(long, global = true, value_enum, default_value_t)]
    #[arg(value_name = "FORM", hide_possible_values = true, hide_default_value = true)]
    pub format: Format,
    /// Also write the report to a file
    #[arg(long, global = true, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The real pcluster, or its environment
    #[arg(long, global = true, value_name = "PATH|DIR")]
    pub real: Option<PathBuf>,
    /// Color the report [default: auto]
    #[arg(long, global = true, value_enum, default_value_t)]
    #[arg(value_name = "auto|always|never", hide_possible_values = true, hide_default_value = true)]
    pub color: ColorChoice,
    /// Print no report, only errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show what is being done
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
    /// For reports only.
    Junit,
    /// For reports only.
    Github,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Preflight::command().debug_assert();
    }
}
