//! Completion scripts and the manual page, generated from the command line that [`cli`](crate::cli::args)
//! declares. clap generates the completion of `pcluster-preflight`. The scripts in this file use that
//! completion for `pcluster preflight …`, and leave the other commands of `pcluster` to the shell's
//! default completion.

use std::io;

use clap::builder::{Command, PossibleValuesParser};
use clap::{Arg, ArgAction, CommandFactory as _, ValueHint};
use clap_complete::aot;

use crate::cli::args::{Preflight, Shell};
use crate::rules::advisories::{combinations, file};
use crate::rules::template::minitar;

const NAME: &str = "pcluster-preflight";

/// Renders a completion script that the shell sources, or finds by name in a directory of completions.
pub fn render_completions(shell: Shell) -> String {
    match shell {
        // clap_complete writes `pcluster-preflight` in two ways: as `pcluster__preflight` where the script
        // recognizes a subcommand, and as `pcluster__subcmd__preflight` where the script lists the options of
        // that subcommand. Without this correction, nothing would be completed after a subcommand.
        Shell::Bash => {
            generate(aot::Shell::Bash).replace("pcluster__subcmd__preflight", "pcluster__preflight") + BASH
        }
        Shell::Fish => {
            // clap_complete leaves out the values of a positional argument.
            let ids = KnownIds::read();
            let line = |command: &str, ids: &[&str]| {
                let condition = format!("__fish_pcluster_preflight_using_subcommand {command}");
                format!("complete -c {NAME} -n \"{condition}\" -f -a \"{}\"\n", ids.join(" "))
            };
            let script = generate(aot::Shell::Fish);
            script + &line("advisories", &ids.of_advisories) + &line("fix", &ids.of_fix) + FISH
        }
        Shell::Zsh => {
            // The first line of a file in $fpath tells zsh which commands the file completes.
            let script = generate(aot::Shell::Zsh);
            let own = script.split("\nif [ \"$funcstack[1]\"").next().unwrap_or_default();
            let own = own.replacen("#compdef pcluster-preflight", "#compdef pcluster pcluster-preflight", 1);
            own + ZSH
        }
    }
}

fn generate(shell: aot::Shell) -> String {
    let mut script = Vec::new();
    let ids = KnownIds::read();
    let with_ids = |command: Command, ids: Vec<&'static str>| {
        let known = PossibleValuesParser::new(ids);
        command.mut_args(|argument| {
            if argument.is_positional() { argument.value_parser(known.clone()) } else { argument }
        })
    };
    let command = Preflight::command().name(NAME).bin_name(NAME);
    // clap would add the common options to every command, but `install` and `uninstall` do not accept them.
    // So we add them to the other commands ourselves.
    let common: Vec<Arg> =
        command.get_arguments().filter(|argument| argument.is_global_set()).cloned().collect();
    let common = common.into_iter().map(|argument| argument.global(false)).collect::<Vec<_>>();
    let mut command = command.mut_args(|argument| argument.global(false)).mut_subcommands(|command| {
        match command.get_name() {
            "install" => with_options_of_script(command, &["--binary", "--no-modify-path", "--uninstall"]),
            "uninstall" => with_options_of_script(command, &[]),
            "advisories" => with_ids(command, ids.of_advisories.clone()).args(&common),
            "fix" => with_ids(command, ids.of_fix.clone()).args(&common),
            _ => command.args(&common),
        }
    });
    aot::generate(shell, &mut command, NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The ids that are built into the shim. A completion offers only these ids. The commands also accept the ids
/// in the advisory files that config.yaml names.
struct KnownIds {
    of_advisories: Vec<&'static str>,
    of_fix: Vec<&'static str>,
}

impl KnownIds {
    fn read() -> Self {
        // The ids are leaked, because clap needs names that live as long as the program. The program
        // ends soon.
        let ids: Vec<&'static str> =
            file::built_in().into_iter().map(|advisory| &*advisory.id.leak()).collect();
        let combinations: Vec<&'static str> =
            combinations::built_in().into_iter().map(|one| &*one.id.leak()).collect();
        let of_fix = [&ids[..], &["lambda-runtime", minitar::ID]].concat();
        Self { of_advisories: [ids, combinations].concat(), of_fix }
    }
}

/// Adds the options of install.sh, which clap does not know because install.sh parses them.
fn with_options_of_script(command: Command, more: &[&'static str]) -> Command {
    let names = ["--prefix", "--venv", "--help"].iter().chain(more);
    command.args(names.map(|name| {
        let argument = Arg::new(*name).long(name.trim_start_matches('-'));
        match *name {
            "--prefix" | "--venv" => argument.value_hint(ValueHint::DirPath),
            "--binary" => argument.value_hint(ValueHint::FilePath),
            _ => argument.action(ArgAction::SetTrue),
        }
    }))
}

const BASH: &str = r#"
_pcluster_shim() {
    if [[ $COMP_CWORD -gt 1 && ${COMP_WORDS[1]} == preflight ]]; then
        COMP_WORDS=(pcluster-preflight "${COMP_WORDS[@]:2}")
        COMP_CWORD=$((COMP_CWORD - 1))
        _pcluster__preflight pcluster-preflight "$2" "$3"
    elif [[ $COMP_CWORD -eq 1 && -n $2 && preflight == "$2"* ]]; then
        COMPREPLY=(preflight $(compgen -f -- "$2"))
    fi
}

complete -F _pcluster_shim -o bashdefault -o default pcluster
"#;

const ZSH: &str = r#"
_pcluster_shim() {
    if [[ $service == pcluster-preflight ]]; then
        _pcluster-preflight "$@"
    elif (( CURRENT > 2 )) && [[ $words[2] == preflight ]]; then
        words=(pcluster-preflight "${(@)words[3,-1]}")
        (( CURRENT-- ))
        _pcluster-preflight "$@"
    else
        (( CURRENT == 2 )) && [[ -n $PREFIX ]] && compadd preflight
        _default
    fi
}

if [ "$funcstack[1]" = "_pcluster" ]; then
    _pcluster_shim "$@"
else
    compdef _pcluster_shim pcluster pcluster-preflight
fi
"#;

const FISH: &str = r#"
function __fish_pcluster_shim_is_preflight
    set -l words (commandline -opc)
    test (count $words) -gt 1; and test "$words[2]" = preflight
end

function __fish_pcluster_shim_preflight
    set -l words (commandline -opc)
    complete -C "pcluster-preflight $(string join ' ' -- (string escape -- $words[3..-1])) $(commandline -ct)"
end

complete -c pcluster -n __fish_pcluster_shim_is_preflight -f -a "(__fish_pcluster_shim_preflight)"
complete -c pcluster -n "test (count (commandline -opc)) -eq 1; and string length -q -- (commandline -ct)" -a preflight
"#;

/// Renders a single manual page for all commands, because their sections are short and refer to each other.
pub fn render_page() -> String {
    // Writing to a Vec cannot fail.
    String::from_utf8_lossy(&write_page().unwrap_or_default()).into_owned()
}

fn write_page() -> io::Result<Vec<u8>> {
    let command = Preflight::command().name(NAME).bin_name(NAME);
    let mut page = Vec::new();
    let whole = clap_mangen::Man::new(command.clone());
    whole.render_title(&mut page)?;
    whole.render_name_section(&mut page)?;
    page.extend_from_slice(SYNOPSIS.as_bytes());
    page.extend_from_slice(b".SH COMMANDS\n");
    for subcommand in command.get_subcommands() {
        write_section(subcommand, &mut page)?;
    }
    page.extend_from_slice(b".SH \"OPTIONS OF EVERY COMMAND\"\n");
    let common: Vec<_> = command.get_arguments().filter(|argument| argument.is_global_set()).collect();
    write_options(common.into_iter().cloned(), &mut page)?;
    page.extend_from_slice(REST.as_bytes());
    Ok(page)
}

fn write_section(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let positional: String = command
        .get_positionals()
        .map(|argument| {
            let id = argument.get_id().as_str().to_uppercase();
            let name = argument.get_value_names().and_then(<[_]>::first).map_or(id, ToString::to_string);
            let more = if matches!(argument.get_action(), ArgAction::Append) { "..." } else { "" };
            if argument.is_required_set() { format!(" {name}") } else { format!(" [{name}]{more}") }
        })
        .collect();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.extend_from_slice(format!(".SS \"{}{positional}\"\n{about}.\n", command.get_name()).as_bytes());
    write_options(command.get_arguments().cloned(), page)
}

/// Writes the list of options as `clap_mangen` does, but without the heading.
fn write_options(arguments: impl Iterator<Item = clap::Arg>, page: &mut Vec<u8>) -> io::Result<()> {
    let mut arguments = arguments.peekable();
    if arguments.peek().is_none() {
        return Ok(());
    }
    let command = Command::new(NAME).disable_help_flag(true).disable_version_flag(true).args(arguments);
    let mut rendered = Vec::new();
    clap_mangen::Man::new(command).render_options_section(&mut rendered)?;
    let text = String::from_utf8_lossy(&rendered).into_owned();
    let list = text
        .lines()
        .filter(|line| !line.starts_with(".SH") && !line.starts_with(".ie") && !line.starts_with(".el"));
    for line in list {
        page.extend_from_slice(line.as_bytes());
        page.push(b'\n');
    }
    Ok(())
}

const SYNOPSIS: &str = r"
.SH SYNOPSIS
.B pcluster preflight
[\fICOMMAND\fR] [\fIOPTIONS\fR]
.br
.B pcluster\-preflight
[\fICOMMAND\fR] [\fIOPTIONS\fR]
";

const REST: &str = r"
.SH EXIT STATUS
0 ready or done, 1 blocked or not done, 2 usage or configuration error, 3 unknown,
127 no real pcluster found.
.SH ENVIRONMENT
.TP
.B PCLUSTER_SHIM_MODE
What the guard does if a check of build\-image finds an error: block (the default), fix, warn, off.
.TP
.B PCLUSTER_SHIM_REAL
The absolute path of the real pcluster.
.TP
.B PCLUSTER_SHIM_STRICT
1: a check that cannot run stops build\-image.
.TP
.B PCLUSTER_SHIM_TIMEOUT
Seconds for one child process of a check, 120 by default.
.TP
.B PCLUSTER_SHIM_CONFIG
The configuration file.
.SH FILES
.TP
.I $XDG_CONFIG_HOME/pcluster\-shim/config.yaml
mode, real, strict, timeout, installer, strategy, aws, ignore, advisories. A variable overrides the file; a flag overrides both.
`pcluster preflight config' prints it with every key.
.TP
.I $XDG_STATE_HOME/pcluster\-shim
Snapshots and journals of repairs, which `pcluster preflight undo' needs; repairs that are kept outside an
environment; interrupted deletions. Do not remove it.
.P
Without these variables: ~/.config, ~/.local/state.
.SH EXAMPLES
.TP
.B pcluster preflight \-c image.yaml
Whether a build\-image with this configuration would work, and why not.
.TP
.B pcluster preflight fix \-\-dry\-run
The packages that a repair would change.
.TP
.B pcluster preflight fix && pcluster build\-image \-c image.yaml \-i my\-image
Repairs, then builds.
.TP
.B pcluster preflight constraints 3.13.2 >constraints.txt
For pip install aws\-parallelcluster==3.13.2 \-c constraints.txt.
.TP
.B pcluster preflight check \-\-all \-\-no\-synth
Every environment on this machine, in seconds.
.TP
.B pcluster preflight images \-\-all\-regions
The AMIs that broken builds left, and what they cost.
.TP
.B pcluster preflight install \-\-venv /opt/pcluster
Guards that environment's own pcluster, even when it is called by its path.
";
