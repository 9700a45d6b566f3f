#!/bin/sh
# Installs and uninstalls pcluster-shim. POSIX sh.
#
#   prefix/bin/{pcluster,pcluster-preflight}   the shim, in its own directory, first on PATH
#   prefix/{env,env.fish}                      what startup files source
#   prefix/completions/, prefix/share/man/     completions for bash, zsh and fish; the manual page
#   prefix/install.sh                          this file, for --uninstall and --venv
#
# With --venv DIR, the shim is installed into an environment instead:
#
#   DIR/bin/pcluster                           the shim
#   DIR/bin/pcluster-preflight                 a second copy, in case DIR/bin/pcluster is overwritten
#   DIR/bin/pcluster.real                      the launcher that was DIR/bin/pcluster before
#   DIR/bin/.pcluster-shim/pcluster            a link to pcluster.real, so that usage texts show the name pcluster
#   DIR/bin/.pcluster-shim/install.sh          this file

# This file has only functions, variables and one call at the end, so that a truncated copy does nothing. The exception
# is a copy that ends inside the name of a function: sh runs that part of the name as a command. So no function name
# begins with the name of a harmful program.
usage() {
    cat <<'EOF'
usage: install.sh [--prefix DIR] [--binary FILE] [--no-modify-path]
       install.sh --venv DIR [--binary FILE]
       install.sh --uninstall [--prefix DIR | --venv DIR]

  --prefix DIR      install there [default: $XDG_DATA_HOME/pcluster-shim]
  --binary FILE     install this file instead of building with cargo
  --no-modify-path  leave startup files alone
  --venv DIR        guard one environment in place, for containers and CI
  --uninstall       remove everything that was installed
EOF
}

# If the reader closes the output early, as head does, we continue anyway: main ignores SIGPIPE.
say() { printf '%s\n' "$*" 2>/dev/null || :; }

complain() { printf 'install.sh: %s\n' "$*" >&2 2>/dev/null || :; }

die() {
    complain "error: $1"
    if [ -n "${2:-}" ]; then complain "hint: $2"; fi
    exit "${3:-1}"
}

# Every build of the shim contains this text; no other program does.
marker='pcluster-shim executable 7c1e4d6a-86f5-4f0b-9a0c-2d3b51e6f0aa'

# Zero bytes are replaced, because some versions of grep stop at a zero byte.
is_shim() { [ -f "$1" ] && tr '\000' '\n' <"$1" 2>/dev/null | LC_ALL=C grep -qF "$marker"; }

# quoted TEXT: prints it as one word of sh.
quoted() {
    printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}

# quoted_for_fish TEXT: prints it as one word of fish, where backslashes are special even within quotes.
quoted_for_fish() {
    printf "'%s'" "$(printf '%s' "$1" | sed "s/[\\\\']/\\\\&/g")"
}

# absolute PATH: prints it as an absolute path, without following links.
absolute() {
    case $1 in
        /*) printf '%s' "$1" ;;
        *)
            if ! [ -d "$(pwd -P 2>/dev/null)" ]; then
                die 'the current directory no longer exists' "Pass $1 as an absolute path." 2
            fi
            printf '%s/%s' "$(pwd)" "$1"
            ;;
    esac
}

# owner_of FILE: prints the user ID of its owner; links are followed.
owner_of() {
    # shellcheck disable=SC2012 # ls gets only one name, and stat is not in POSIX
    ls -ldnL "$1" 2>/dev/null | awk '{ print $3 }'
}

# of_another FILE: whether root runs this script and FILE belongs to another user. Permissions would not stop root.
of_another() {
    owner=$(owner_of "$1")
    [ "$(id -u)" -eq 0 ] && [ "${owner:-0}" -ne 0 ]
}

# --- files --------------------------------------------------------------------

# The name of an unfinished file ends in this text and a number. If a run is killed, its unfinished files remain, and
# --uninstall removes these files.
temporary=.pcluster-shim-new

# put MODE FILE: writes standard input to FILE atomically. A process that runs the old FILE is not disturbed.
put() {
    new=$2$temporary.$$
    # shellcheck disable=SC2094 # what cannot be written is reported below
    if why=$({ cat >"$new" && chmod "$1" "$new" && mv -f "$new" "$2"; } 2>&1); then return; fi
    rm -f "$new"
    case $why in
        *'No space left'* | *'uota exceeded'*) die "cannot write $2: the disk is full" 'Free some space, then run this again.' ;;
    esac
    die "cannot write $2" "Make $(dirname "$2") writable, or pass another directory."
}

# remove FILE...: removes each FILE that belongs to the shim, and the unfinished copies of FILE from killed runs.
remove() {
    for file in "$@"; do
        if [ -h "$file" ] || is_shim "$file" || LC_ALL=C grep -qi 'pcluster[_-]shim' "$file" 2>/dev/null; then
            rm -f "${file:?}" || die "cannot remove $file" 'Remove it by hand, then run this again.'
        fi
        rm -f "${file:?}$temporary".[0-9]*
    done
}

# remove_empty DIR...: removes the directories that are empty, and warns about the others.
remove_empty() {
    for directory in "$@"; do
        if [ -d "$directory" ] && ! rmdir "${directory:?}" 2>/dev/null; then
            complain "warning: $directory was kept: it contains other files"
        fi
    done
}

# --- the program ----------------------------------------------------------------

# choose_program: sets `binary`. In a checkout, builds the program unless the user named one.
choose_program() {
    if [ -z "$binary" ] && grep -qs '^name = "pcluster-shim"' "$here/Cargo.toml"; then
        command -v cargo >/dev/null 2>&1 ||
            die 'cargo is not on PATH' 'Install Rust (https://rustup.rs), or pass a built pcluster-shim with --binary FILE.'
        say 'building with cargo'
        # The program is static if possible: loading shared libraries would be a third of the time that the shim adds
        # to a call. Not every system has a static libc.
        out=$here/target/install
        set -- --release --locked --manifest-path "$here/Cargo.toml" --target-dir "$out"
        # On a terminal cargo shows its progress, because a build takes some minutes.
        if ! [ -t 2 ]; then set -- --quiet "$@"; fi
        libc=$(cc -print-file-name=libc.a 2>/dev/null) || libc=''
        host=$(rustc -vV 2>/dev/null | sed -n 's/^host: //p')
        case $host in
            *-linux-gnu)
                if [ -f "$libc" ]; then
                    export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static"
                    set -- "$@" --target "$host"
                    out=$out/$host
                fi
                ;;
        esac
        cargo build "$@" || die 'the build failed: nothing was installed' 'The messages above say why.'
        binary=$out/release/pcluster
    fi
    if [ -z "$binary" ]; then
        # If this file was installed, the program is near it.
        for binary in ${here:+"$here/bin/pcluster" "$here/../pcluster-preflight"}; do
            if is_shim "$binary"; then return; fi
        done
        die 'found no program to install' 'Run install.sh in a checkout, or pass a built pcluster-shim with --binary FILE.'
    fi
    [ -f "$binary" ] || die "$binary is not a file" 'Pass a built pcluster-shim with --binary FILE.'
    is_shim "$binary" || die "$binary is not pcluster-shim" 'Pass a built pcluster-shim with --binary FILE.'
    # A wheel installs the program as `pcluster-preflight`. Under that name, commands have no `preflight` before them.
    case $binary in
        */pcluster-preflight) version=$("$binary" --version 2>/dev/null) ;;
        *) version=$("$binary" preflight --version 2>/dev/null) ;;
    esac
    [ -n "$version" ] ||
        die "$binary does not run on this machine" 'Build it here: run install.sh in a checkout, without --binary.'
}

# put_script DIR: copies this file into DIR, unless sh reads this file from a pipe.
put_script() {
    if [ -n "$here" ] && [ "$here" != "$1" ]; then put 755 "$1/install.sh" <"$here/install.sh"; fi
}

# --- what startup files source ----------------------------------------------------

startup_for_sh() {
    printf '# pcluster-shim: first on PATH, each time that this is sourced. Written by install.sh.\n'
    printf '_pcluster_shim=%s\n' "$(quoted "$prefix")"
    cat <<'EOF'
_pcluster_shim_path=:${PATH-}:
while :; do
    case $_pcluster_shim_path in
        *":$_pcluster_shim/bin:"*)
            _pcluster_shim_path=${_pcluster_shim_path%%":$_pcluster_shim/bin:"*}:${_pcluster_shim_path#*":$_pcluster_shim/bin:"}
            ;;
        *) break ;;
    esac
done
_pcluster_shim_path=${_pcluster_shim_path#:}
_pcluster_shim_path=${_pcluster_shim_path%:}
PATH=$_pcluster_shim/bin${_pcluster_shim_path:+:$_pcluster_shim_path}
export PATH
unset _pcluster_shim_path
case $- in
    *i*)
        # An activated environment is on PATH ahead of the shim. The function `pcluster` starts the shim even
        # then, and the shim runs the environment's pcluster. A `pcluster` that you have defined yourself stays.
        case $(command -v pcluster) in
            pcluster | alias*) ;;
EOF
    shim=$(quoted "$prefix/bin/pcluster")
    # `where` cannot see by itself that a function has called it.
    body="pcluster() { if ! [ -x $shim ]; then hash -r; command pcluster \"\$@\"; else case \"\${1-} \$* \" in"
    body="$body 'preflight '*' where '*) PCLUSTER_SHIM_FUNCTION=1 $shim \"\$@\" ;;"
    body="$body *) $shim \"\$@\" ;; esac; fi; }"
    printf '            *) eval %s ;;\n' "$(quoted "$body")"
    cat <<'EOF'
        esac
        if [ -n "${BASH_VERSION-}" ]; then
EOF
    load="_pcluster_shim_load() { . $(quoted "$prefix/completions/pcluster.bash") && return 124; }"
    printf '            eval %s\n' "$(quoted "$load")"
    cat <<'EOF'
            complete -o bashdefault -o default -F _pcluster_shim_load pcluster pcluster-preflight
        elif [ -n "${ZSH_VERSION-}" ]; then
            eval '
                fpath=("$_pcluster_shim/completions" ${fpath:#"$_pcluster_shim/completions"})
                if (( ${+functions[compdef]} )); then
                    autoload -Uz _pcluster && compdef _pcluster pcluster pcluster-preflight
                fi
            '
        fi
        ;;
esac
unset _pcluster_shim
EOF
}

startup_for_fish() {
    printf '# pcluster-shim: first on PATH, each time that this is sourced. Written by install.sh.\n'
    printf 'set -l directory %s\n' "$(quoted_for_fish "$prefix/bin")"
    printf 'set -l completions %s\n' "$(quoted_for_fish "$prefix/completions")"
    cat <<'EOF'
set -l others
for entry in $PATH
    test "$entry" = "$directory"; or set -a others $entry
end
set -gx PATH $directory $others
if status is-interactive
    # An activated environment is on PATH ahead of the shim. The function `pcluster` starts the shim even
    # then, and the shim runs the environment's pcluster. A `pcluster` that you have defined yourself stays.
    if not functions -q pcluster
        function pcluster
EOF
    shim=$(quoted_for_fish "$prefix/bin/pcluster")
    printf '            if test -x %s\n' "$shim"
    # shellcheck disable=SC2016 # fish expands it.
    printf '                set -l shim %s\n' "$shim"
    cat <<'EOF'
                # `where` cannot see by itself that a function has called it.
                if test "$argv[1]" = preflight; and contains -- where $argv
                    env PCLUSTER_SHIM_FUNCTION=1 $shim $argv
                else
                    $shim $argv
                end
            else
                command pcluster $argv
            end
        end
    end
    if not contains -- $completions $fish_complete_path
        set -g fish_complete_path $completions $fish_complete_path
    end
end
EOF
}

# --- startup files ----------------------------------------------------------------

# The line that is added to a startup file, for sh and for fish. It does nothing if the shim is gone.
startup_line_in_sh() {
    file=$(quoted "$prefix/env")
    printf '[ ! -f %s ] || . %s # pcluster-shim' "$file" "$file"
}

startup_line_in_fish() {
    file=$(quoted_for_fish "$prefix/env.fish")
    printf 'test -f %s; and source %s # pcluster-shim' "$file" "$file"
}

# If a startup file has no newline at its end, a newline is added before our line. Our line then ends in this text, so
# that --uninstall removes that newline too.
one_more=', and the newline before'

# each_startup_file add|remove: handles each existing file that a shell of this user could read. It creates no file: a
# new .bash_profile would hide .profile.
each_startup_file() {
    zdotdir=${ZDOTDIR:-}
    if [ -z "$zdotdir" ] && [ -f "$HOME/.zshenv" ] && command -v zsh >/dev/null 2>&1; then
        # shellcheck disable=SC2016 # zsh expands it.
        zdotdir=$(zsh -c 'printf %s "$ZDOTDIR"' </dev/null 2>/dev/null) || zdotdir=
    fi
    for name in .profile .bash_profile .bash_login .bashrc .zshenv .zprofile .zshrc; do
        one_startup_file "$1" "$HOME/$name" "$(startup_line_in_sh)"
    done
    if [ -n "$zdotdir" ]; then
        for name in .zshenv .zprofile .zshrc; do
            one_startup_file "$1" "$zdotdir/$name" "$(startup_line_in_sh)"
        done
    fi
    one_startup_file "$1" "${XDG_CONFIG_HOME:-$HOME/.config}/fish/config.fish" "$(startup_line_in_fish)"
}

# one_startup_file add|remove FILE LINE
one_startup_file() {
    [ -f "$2" ] || return 0
    if of_another "$2"; then
        if [ "$1" = add ]; then complain "warning: $2 belongs to another user: shells that read it will not use the shim"; fi
        return
    fi
    case $1 in
        add) add_line "$2" "$3" ;;
        # If several installations ran at the same time, each can have added the line.
        remove) while remove_line "$2" "$3"; do :; done ;;
    esac
}

add_line() {
    if grep -qxF -e "$2" -e "$2$one_more" "$1" 2>/dev/null; then
        edited=1
        return
    fi
    # A single write adds the line, so that an interruption cannot leave half of the line.
    added=$2
    if [ -s "$1" ] && [ "$(($(tail -c 1 "$1" | wc -l)))" -eq 0 ]; then
        added="
$2$one_more"
    fi
    if { printf '%s\n' "$added" >>"$1"; } 2>/dev/null; then
        edited=1
        say "added one line to $1"
    else
        complain "warning: $1 is not writable: shells that read it will not use the shim"
        complain "hint: Add this line at its end: $2"
        one_is_advised=1
    fi
}

# remove_line FILE LINE: removes LINE from FILE once, and fails if FILE has no such line. If LINE is still the last
# line, the newline that add_line put before LINE is removed too. All other bytes of FILE are unchanged.
remove_line() {
    file=$1
    # Follows links, so that a link is not replaced with a file.
    links=0
    while [ -h "$file" ] && [ "$links" -lt 40 ]; do
        target=$(readlink "$file")
        case $target in
            /*) file=$target ;;
            *) file=$(dirname "$file")/$target ;;
        esac
        links=$((links + 1))
    done
    rm -f "${file:?}$temporary".[0-9]*
    for line in "$2$one_more" "$2"; do
        number=$(tr '\000' '?' <"$file" 2>/dev/null | LC_ALL=C grep -nxF -e "$line" | head -n 1 | cut -d : -f 1)
        if [ -n "$number" ]; then break; fi
    done
    [ -n "$number" ] || return 1
    before=$(($(head -n "$((number - 1))" "$file" | wc -c)))
    after=$((before + $(printf '%s\n' "$line" | wc -c)))
    whole=$(($(wc -c <"$file")))
    if [ "$line" != "$2" ] && [ "$after" -ge "$whole" ]; then before=$((before - 1)); fi
    # Works on a copy, so that the file is unchanged if the disk is full.
    new=$file$temporary.$$
    if [ -w "$file" ] && cp -p "$file" "$new" 2>/dev/null &&
        { head -c "$before" "$file" && tail -c "+$((after + 1))" "$file"; } >"$new" && mv -f "$new" "$file"; then
        say "removed one line from $1"
    else
        rm -f "$new"
        complain "warning: $1 is not writable; one line remains in it, but has no effect"
        complain "hint: Remove this line: $2"
        return 1
    fi
}

# --- install ----------------------------------------------------------------------

# missing_parents: lists the missing directories above the prefix, the lowest first. add_shim creates these
# directories, and --uninstall removes them.
missing_parents() {
    directory=$(dirname "$prefix")
    while ! [ -d "$directory" ]; do
        printf '%s\n' "$directory"
        directory=$(dirname "$directory")
    done
}

# own_directory: refuses a prefix that contains other files. Another program that installs files there could overwrite
# the shim.
own_directory() {
    for entry in "$prefix"/* "$prefix"/.[!.]* "$prefix"/bin/* "$prefix"/bin/.[!.]*; do
        case ${entry#"$prefix/"} in
            bin | completions | share | made | env | env.fish | install.sh | *"$temporary".[0-9]*) continue ;;
            bin/pcluster | bin/pcluster-preflight) if is_shim "$entry"; then continue; fi ;;
        esac
        if [ -e "$entry" ] || [ -h "$entry" ]; then
            die "$prefix contains $entry, which does not belong to the shim" 'Pass another directory with --prefix DIR.'
        fi
    done
}

add_shim() {
    choose_program
    own_directory
    made=$(missing_parents)
    mkdir -p "$prefix/bin" "$prefix/completions" "$prefix/share/man/man1" 2>/dev/null ||
        die "cannot create $prefix" 'Pass a writable directory with --prefix DIR.'
    if [ -n "$made" ]; then printf '%s\n' "$made" '# pcluster-shim' | put 644 "$prefix/made" || exit 1; fi
    put 755 "$prefix/bin/pcluster" <"$binary"
    if ! "$prefix/bin/pcluster" preflight --version >/dev/null 2>&1; then
        rm -f "$prefix/bin/pcluster" "$prefix/made"
        for directory in completions share/man/man1 share/man share bin ''; do
            rmdir "$prefix/$directory" 2>/dev/null
        done
        die "programs cannot run from $prefix: its file system may be mounted noexec" \
            'Pass a directory on another file system with --prefix DIR.'
    fi
    preflight=$prefix/bin/pcluster-preflight
    if ! [ -h "$preflight" ]; then
        ln -sf pcluster "$preflight" || die "cannot write $preflight" 'Make it writable.'
    fi
    "$preflight" completions bash | put 644 "$prefix/completions/pcluster.bash" || exit 1
    "$preflight" completions zsh | put 644 "$prefix/completions/_pcluster" || exit 1
    for name in pcluster pcluster-preflight; do
        "$preflight" completions fish | put 644 "$prefix/completions/$name.fish" || exit 1
    done
    "$preflight" man | put 644 "$prefix/share/man/man1/pcluster-preflight.1" || exit 1
    put_script "$prefix"
    # env.fish and env put the shim on PATH, so they are written after all other files in the prefix.
    startup_for_fish | put 644 "$prefix/env.fish" || exit 1
    startup_for_sh | put 644 "$prefix/env" || exit 1
    remove_old_cache
    say "installed $("$preflight" --version | sed 's/^pcluster.preflight/pcluster-shim/') in $prefix"
    edited=
    if [ -n "$modify_path" ] && [ -n "${HOME:-}" ]; then each_startup_file add; fi
    check_installation
}

# check_installation: starts a new shell of this user, and asks the shim there whether the shim is first on PATH.
check_installation() {
    activate=". $(quoted "$prefix/env")"
    now="$activate; hash -r"
    ask="$(quoted "$preflight") where --format json"
    case ${SHELL:-} in
        */fish)
            activate="source $(quoted_for_fish "$prefix/env.fish")"
            now=$activate
            ask="$(quoted_for_fish "$preflight") where --format json"
            ;;
    esac
    if [ -z "$edited" ]; then
        say "next: put this line at the end of your shell's startup file: $activate"
        return
    fi
    # The new shell gets a separate session, because an interactive shell takes over the terminal of its session.
    session=''
    if command -v setsid >/dev/null 2>&1; then session=setsid; fi
    refused=
    if refuses_settings "$preflight"; then refused=1; fi
    for kind in '' -l; do
        if ! [ -x "${SHELL:-}" ] || [ -n "$refused" ]; then break; fi
        answer=$($session "$SHELL" $kind -i -c "$ask" </dev/null 2>/dev/null)
        case $answer in
            *'"bypassed": false'*) ;;
            *)
                startup="the shell's startup file"
                if [ "${SHELL##*/}$kind" = bash-l ] && no_login_file; then
                    # shellcheck disable=SC2088 # people read this path
                    startup='~/.profile, because login shells do not read ~/.bashrc'
                fi
                complain "warning: in a new shell ($SHELL${kind:+ $kind} -i) the shim is not first on PATH, so build-image would not be guarded"
                if [ -n "${one_is_advised:-}" ]; then
                    complain "hint: Add the line that is advised above. If that does not help, put this line at the end of $startup:"
                else
                    complain "hint: Put this line at the end of $startup:"
                fi
                complain "$activate"
                ;;
        esac
        case $kind$answer in
            -l*) ;;
            *'"real": null'*) say 'no real pcluster is on PATH yet; the shim will find it once it is installed' ;;
        esac
    done
    say "next: open a new shell, or run this: $now"
}

# no_login_file: whether a bash login shell would read none of this user's files.
no_login_file() {
    for name in .bash_profile .bash_login .profile; do
        if [ -e "$HOME/$name" ]; then return 1; fi
    done
}

# refuses_settings PROGRAM: whether PROGRAM rejects the config file or a variable; if so, prints PROGRAM's error.
refuses_settings() {
    refusal=$(PCLUSTER_SHIM_MODE=block "$1" where -q 2>&1 >/dev/null </dev/null)
    [ $? -eq 2 ] || return 1
    printf '%s\n' "$refusal" >&2
}

remove_shim() {
    if [ -e "$prefix/bin/pcluster" ] && ! is_shim "$prefix/bin/pcluster"; then
        die "$prefix/bin/pcluster does not belong to pcluster-shim: nothing was removed" \
            'With --prefix DIR, pass the directory in which pcluster-shim was installed.'
    fi
    # Startup files are edited first, so that no new shell calls a shim that is only partly removed.
    if [ -n "${HOME:-}" ]; then each_startup_file remove; fi
    if ! [ -d "$prefix" ]; then
        say "nothing is installed in $prefix"
        return
    fi
    made=$(grep '^/' "$prefix/made" 2>/dev/null)
    remove "$prefix/env" "$prefix/env.fish" \
        "$prefix/completions/pcluster.bash" "$prefix/completions/_pcluster" \
        "$prefix/completions/pcluster.fish" "$prefix/completions/pcluster-preflight.fish" \
        "$prefix/share/man/man1/pcluster-preflight.1" \
        "$prefix/bin/pcluster-preflight" "$prefix/bin/pcluster" "$prefix/install.sh"
    remove_empty "$prefix/completions" "$prefix/share/man/man1" "$prefix/share/man" "$prefix/share" "$prefix/bin"
    remove "$prefix/made"
    remove_empty "$prefix"
    printf '%s\n' "$made" | while read -r directory; do
        rmdir "$directory" 2>/dev/null || break
    done
    say "removed pcluster-shim from $prefix"
    remove_old_cache
    remove_state
    remove_settings
    say "next: in shells that are open, run: unset -f pcluster; hash -r (fish: functions -e pcluster)"
}

# base_directory VALUE BELOW_HOME: prints VALUE/pcluster-shim or, if VALUE is not an absolute path,
# HOME/BELOW_HOME/pcluster-shim. Prints nothing if neither VALUE nor HOME is an absolute path.
base_directory() {
    case $1 in
        /*) printf '%s/pcluster-shim' "$1" ;;
        *) case ${HOME:-} in /*) printf '%s/%s/pcluster-shim' "$HOME" "$2" ;; esac ;;
    esac
}

# remove_old_cache: removes the cache that older versions kept between calls.
remove_old_cache() {
    cache=$(base_directory "${XDG_CACHE_HOME:-}" .cache)
    if [ -d "$cache" ] && ! [ -h "$cache" ]; then
        rm -rf "${cache:?}" 2>/dev/null || complain "warning: cannot remove $cache"
    fi
}

# remove_state: removes the state of repairs, except for what an undo needs.
remove_state() {
    state=$(base_directory "${XDG_STATE_HOME:-}" .local/state)
    [ -d "$state" ] || return 0
    for lock in "$state"/environments/*/lock; do
        if [ "$(ls -A "${lock%/lock}" 2>/dev/null)" = lock ]; then
            rm -f "$lock" && rmdir "${lock%/lock}"
        fi
    done
    rmdir "$state/environments" "$state" 2>/dev/null
    if [ -d "$state" ]; then say "kept $state, which \`pcluster preflight undo\` needs"; fi
}

# remove_settings: removes the settings directory if it is empty.
remove_settings() {
    config=$(base_directory "${XDG_CONFIG_HOME:-}" .config)
    if [ -e "$config/config.yaml" ]; then say "kept $config, your settings"; fi
    rmdir "$config" 2>/dev/null || :
}

# --- one environment, in place ------------------------------------------------------

# is_of_wheel FILE: whether pip or uv installed FILE from our wheel, and will remove FILE with the wheel.
is_of_wheel() {
    [ "${1##*/}" = pcluster-preflight ] && is_shim "$1" &&
        grep -qs 'bin/pcluster-preflight,' "$venv"/lib*/python*/*-packages/pcluster_preflight-*.dist-info/RECORD
}

# keeps_launcher: whether the launcher that the shim replaced is still kept as pcluster.real.
keeps_launcher() {
    if [ -h "$launcher.real" ] && ! [ -e "$launcher.real" ]; then return 0; fi
    [ -e "$launcher.real" ] && ! is_shim "$launcher.real"
}

# remove_unfinished: removes what a killed run left in an environment.
remove_unfinished() {
    rm -f "${launcher:?}$temporary".[0-9]* "${launcher:?}.real$temporary".[0-9]* \
        "${venv:?}/bin/pcluster-preflight$temporary".[0-9]* "${own:?}/install.sh$temporary".[0-9]*
}

add_to_venv() {
    launcher=$venv/bin/pcluster
    own=$venv/bin/.pcluster-shim
    if ! is_shim "$launcher"; then
        [ -x "$launcher" ] ||
            die "$launcher does not exist" 'Install aws-parallelcluster in that environment first.'
    elif ! keeps_launcher; then
        die "the launcher that belongs in $launcher is gone" 'Reinstall aws-parallelcluster there, then run this again.'
    else
        guarded=1
    fi
    choose_program
    if [ -h "$own" ]; then die "$own is a link that pcluster-shim did not create" 'Remove it, then run this again.'; fi
    for file in "$launcher.real" "$venv/bin/pcluster-preflight"; do
        if [ -e "$file" ] && [ -z "${guarded:-}" ] && ! [ -h "$own/pcluster" ] && ! is_of_wheel "$file"; then
            die "$file is in the way, and pcluster-shim did not create it" 'Move it away, then run this again.'
        fi
    done
    mkdir -p "$own" 2>/dev/null || die "cannot write $venv/bin" 'Run this as the owner of the environment.'
    # Another installation could create the link at the same time.
    if ! [ -h "$own/pcluster" ] && ! ln -s ../pcluster.real "$own/pcluster" 2>/dev/null; then
        [ -h "$own/pcluster" ] || die "cannot write $own" 'Run this as the owner of the environment.'
    fi
    put_script "$own"
    if ! is_of_wheel "$venv/bin/pcluster-preflight"; then put 755 "$venv/bin/pcluster-preflight" <"$binary"; fi
    "$venv/bin/pcluster-preflight" --version >/dev/null 2>&1 ||
        die "programs cannot run from $venv: its file system may be mounted noexec" "$launcher was not changed."
    if ! is_shim "$launcher"; then
        # The launcher is copied, not moved, so that there is a pcluster at all times.
        new=$launcher.real$temporary.$$
        if ! cp -pP "$launcher" "$new"; then
            rm -f "$new"
            die "cannot write $launcher.real" "$launcher was not changed. Run this as the owner of the environment."
        fi
        # If the copy is the shim, another installation has in the meantime saved the launcher as pcluster.real, and
        # has put the shim in the launcher's place.
        if is_shim "$new"; then
            rm -f "$new"
        elif ! mv -f "$new" "$launcher.real"; then
            rm -f "$new"
            die "cannot write $launcher.real" "$launcher was not changed. Run this as the owner of the environment."
        fi
    fi
    put 755 "$launcher" <"$binary"
    say "guarded $launcher in place; the launcher is kept as pcluster.real"
    if PATH=$venv/bin:$PATH refuses_settings "$venv/bin/pcluster-preflight"; then return; fi
    status=0
    PATH=$venv/bin:$PATH PCLUSTER_SHIM_MODE=block "$venv/bin/pcluster-preflight" where -q </dev/null >/dev/null 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        # With the shim in place, every call of pcluster in this environment would fail.
        mv -f "$launcher.real" "$launcher"
        die 'the shim cannot find the launcher that it replaced' \
            "The launcher was restored, so nothing is guarded. To see why the shim did not find it, run \`$(quoted "$venv/bin/pcluster-preflight") where\`."
    fi
    say 'whenever pip or uv reinstalls aws-parallelcluster there, run this again'
}

remove_from_venv() {
    launcher=$venv/bin/pcluster
    own=$venv/bin/.pcluster-shim
    if is_shim "$launcher"; then
        keeps_launcher ||
            die "the launcher that belongs in $launcher is gone: nothing was changed" \
                'Reinstall aws-parallelcluster there, then run this again.'
        mv -f "$launcher.real" "$launcher" || die "cannot write $launcher" 'Run this as the owner of the environment.'
    elif [ -h "$own/pcluster" ]; then
        # pip or uv has overwritten or removed the shim since, so pcluster.real is out of date.
        rm -f "${launcher:?}.real"
    else
        remove_unfinished
        rmdir "$own" 2>/dev/null
        say "nothing is installed in $venv"
        return
    fi
    preflight=$venv/bin/pcluster-preflight
    if is_shim "$preflight" && ! is_of_wheel "$preflight"; then remove "$preflight"; fi
    remove "$own/pcluster" "$own/install.sh"
    remove_unfinished
    remove_empty "$own"
    say "removed pcluster-shim from $venv"
    remove_state
}

# --- the call -----------------------------------------------------------------------

main() {
    set -u
    umask 022
    trap '' PIPE
    prefix='' binary='' venv='' uninstall='' modify_path=1
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix | --binary | --venv)
                [ -n "${2:-}" ] || die "$1 needs a value" 'For the options, run install.sh --help.' 2
                case $1 in
                    --prefix) prefix=$(absolute "$2") || exit 2 ;;
                    --binary) binary=$(absolute "$2") || exit 2 ;;
                    --venv) venv=$(absolute "$2") || exit 2 ;;
                esac
                shift
                ;;
            --no-modify-path) modify_path= ;;
            --uninstall) uninstall=1 ;;
            -h | --help)
                usage
                return
                ;;
            *) die "unknown argument: $1" 'For the options, run install.sh --help.' 2 ;;
        esac
        shift
    done
    # The directory of this file; empty if sh reads this file from a pipe.
    here=
    case $0 in
        install.sh | */install.sh) here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) ;;
    esac
    if [ -n "$venv" ]; then
        [ -z "$prefix" ] || die '--prefix cannot be used with --venv' 'For the options, run install.sh --help.' 2
        venv=${venv%/}
        [ -d "$venv/bin" ] || die "$venv is not an environment: it has no bin" 'Pass the directory of a virtual environment with --venv DIR.'
        if of_another "$venv/bin"; then
            die "$venv belongs to another user: nothing was changed" 'Run this as that user.'
        fi
        if [ -n "$uninstall" ]; then remove_from_venv; else add_to_venv; fi
        return
    fi
    if [ -z "$prefix" ]; then default_prefix; fi
    while [ "$prefix" != "${prefix%/}" ]; do prefix=${prefix%/}; done
    case $prefix in
        '') die 'the prefix cannot be /' 'Pass a dedicated directory with --prefix DIR.' 2 ;;
        *:* | *"
"*) die "a directory on PATH cannot have a colon or a line break in its name: $prefix" 'Pass another directory with --prefix DIR.' 2 ;;
    esac
    # After sudo, for example, the prefix can be in another user's directory. That user could replace root's files
    # there, and root's shells would run the replacements.
    above=$prefix
    while ! [ -e "$above" ]; do above=$(dirname "$above"); done
    if of_another "$above"; then
        die "$above belongs to another user" 'Run this as that user, or pass your own directory with --prefix DIR.'
    fi
    if [ -n "$uninstall" ]; then remove_shim; else add_shim; fi
}

default_prefix() {
    # If this file was installed, its prefix is the default.
    if [ -n "$here" ] && [ -f "$here/env" ] && is_shim "$here/bin/pcluster"; then
        prefix=$here
        return
    fi
    case ${XDG_DATA_HOME:-} in
        /*) prefix=$XDG_DATA_HOME/pcluster-shim ;;
        *)
            case ${HOME:-} in
                /*) ;;
                *) die 'HOME is not set' 'Pass a directory with --prefix DIR.' 2 ;;
            esac
            prefix=$HOME/.local/share/pcluster-shim
            ;;
    esac
}

{
    main "$@"
    exit
}
