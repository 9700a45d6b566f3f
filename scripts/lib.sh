# shellcheck shell=sh
# Functions of the scripts that make environments: finding a Python, getting uv,
# making a venv in place behind a lock and a marker, and reporting failure.
#
# The script that sources this sets `prog` (its name in messages) and `root`
# (the top of the repository) first. Runs under dash, bash and busybox sh.
#
# A venv cannot be moved, so it is made where it will stay:
#   DIR/.sandbox         the request, written last: DIR is complete
#   DIR/.sandbox.making  work in progress (logs, a HOME for trial runs)
#   DIR.lock             the pid of the one process that works on DIR

: "${prog:?}" "${root:?}"

# Variables that would lead installers or interpreters to another place, or write
# the bytecode that an environment made by uv is not to have.
unset CDPATH PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX \
    PIP_USER PIP_TARGET PIP_PREFIX UV_COMPILE_BYTECODE UV_SYSTEM_PYTHON
# Copies, because tests edit environments in place: hard links would carry an
# edit into the user's own uv cache.
export UV_LINK_MODE=copy
# Only interpreters that the machine has.
export UV_PYTHON_DOWNLOADS=never

UV_VERSION=0.13.9

lf='
'
child=
open_dir=
held_lock=
leftover=

# --- messages ---------------------------------------------------------------

die() {
    printf '%s: %s\n' "$prog" "$1" >&2
    exit 1
}

usage_error() {
    printf '%s: %s\nTry: %s --help\n' "$prog" "$1" "$prog" >&2
    exit 2
}

# failed WHAT LOG NEXT: one message, with the end of the tool's own output.
failed() {
    {
        printf '%s: %s\n' "$prog" "$1"
        if [ -s "$2" ]; then
            printf 'Last lines of the output:\n'
            tail -n 15 "$2" | sed 's/^/    /'
        fi
        printf 'Next: %s\n' "$3"
    } >&2
    exit 1
}

# --- exit -------------------------------------------------------------------

on_exit() {
    exit_status=$?
    trap '' INT TERM HUP
    if [ -n "$child" ]; then
        # The group, because venv and pip have children that go on writing; the
        # process itself, in case it has not made its group yet.
        kill -s TERM -- "-$child" 2>/dev/null || :
        kill -s TERM "$child" 2>/dev/null || :
        wait "$child" 2>/dev/null || :
    fi
    [ -z "$open_dir" ] || wipe "$open_dir" || :
    [ -z "$held_lock" ] || rm -f "$held_lock"
    [ -z "$leftover" ] || rm -rf "$leftover"
    trap - EXIT
    exit "$exit_status"
}

# wipe DIR: removes what these scripts have made. The mark that says so is
# removed last, so that an interrupted removal can be continued; a process that is
# being ended may still write for a moment.
wipe() {
    for wipe_wait in 0 1 2; do
        sleep "$wipe_wait"
        if mkdir -p "$1/.sandbox.making" && (
            cd "$1" && find . ! -name . -prune ! -name .sandbox.making -exec rm -rf {} +
        ) 2>/dev/null && rm -rf "$1" 2>/dev/null; then
            return 0
        fi
    done
    printf '%s: cannot remove %s\n' "$prog" "$1" >&2
    return 1
}

trap on_exit EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# run LOG COMMAND…: in the background, because a shell that waits for a
# foreground command acts on a signal only after that command has ended; and as
# the leader of a process group, so that all of it can be ended. setsid(1) is
# not on every system, `launcher` is a Python that make_venv has been given.
run() {
    run_log=$1
    shift
    TMPDIR=$making/tmp "$launcher" -c \
        'import os, sys; os.setpgid(0, 0); os.execvp(sys.argv[1], sys.argv[1:])' \
        "$@" >"$run_log" 2>&1 </dev/null &
    child=$!
    run_status=0
    wait "$child" || run_status=$?
    child=
    return "$run_status"
}

# --- paths ------------------------------------------------------------------

# absolute DIR: its absolute path; the parent is made if it is missing.
absolute() {
    case $1 in
        /*) abs=$1 ;;
        *) abs=$PWD/$1 ;;
    esac
    if [ -d "$abs" ]; then
        (cd "$abs" && pwd -P)
    else
        abs_parent=$(dirname "$abs")
        mkdir -p "$abs_parent" && abs_parent=$(cd "$abs_parent" && pwd -P) &&
            printf '%s/%s\n' "${abs_parent%/}" "$(basename "$abs")"
    fi
}

# --- Python -----------------------------------------------------------------

# python_runs FILE [MODULE…]: prints "X.Y PATH" if FILE is a Python that starts
# and has the modules. Running it is the only test that holds: pyenv's shims
# are executable files that fail for versions that are not selected.
python_runs() {
    py_file=$1
    shift
    "$py_file" -c '
import sys
for name in sys.argv[1:]:
    __import__(name)
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.executable))
' "$@" 2>/dev/null </dev/null
}

# python_files NAME: every file of that name on PATH, one a line.
python_files() {
    (
        set -f
        IFS=:
        for path_dir in $PATH; do
            path_file=${path_dir:-.}/$1
            if [ -f "$path_file" ] && [ -x "$path_file" ]; then
                printf '%s\n' "$path_file"
            fi
        done
    )
}

# find_python "3.12 3.11 …" [MODULE…]: the path of the first usable Python, in
# the order of the versions given: python3.12 on PATH, then python3 and python
# where they are that version, then pyenv's own directories.
find_python() {
    find_versions=$1
    shift
    find_pyenv=${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}
    for find_version in $find_versions; do
        find_candidates=$(
            for find_name in "python$find_version" python3 python; do
                python_files "$find_name"
            done
            for find_file in "$find_pyenv/versions/$find_version".*/bin/python; do
                if [ -x "$find_file" ]; then printf '%s\n' "$find_file"; fi
            done
        )
        while IFS= read -r find_file; do
            [ -n "$find_file" ] || continue
            find_found=$(python_runs "$find_file" "$@") || continue
            case $find_found in
                "$find_version "?*)
                    printf '%s\n' "${find_found#* }"
                    return 0
                    ;;
            esac
        done <<END
$find_candidates
END
    done
    return 1
}

# named_python P [MODULE…]: the interpreter that --python names, by path, by
# name, or by version.
named_python() {
    named=$1
    shift
    case $named in
        */*)
            case $named in
                /*) ;;
                *) named=$PWD/$named ;;
            esac
            named_found=$(python_runs "$named" "$@") || return 1
            printf '%s\n' "${named_found#* }"
            ;;
        3.[0-9]* | python3.[0-9]*)
            find_python "${named#python}" "$@"
            ;;
        *)
            named_files=$(python_files "$named")
            while IFS= read -r named_file; do
                [ -n "$named_file" ] || continue
                named_found=$(python_runs "$named_file" "$@") || continue
                printf '%s\n' "${named_found#* }"
                return 0
            done <<END
$named_files
END
            return 1
            ;;
    esac
}

# interpreter_for VERSIONS [P]: the path of the interpreter that --python names,
# or of the first one found. On failure it prints what to tell the user.
interpreter_for() {
    # Only pip's way needs more of the interpreter than that it starts.
    if [ "$installer" = pip ]; then
        set -- "$1" "${2:-}" venv ensurepip
    else
        set -- "$1" "${2:-}"
    fi
    wanted=$1
    wanted_name=$2
    shift 2
    if [ -n "$wanted_name" ]; then
        named_python "$wanted_name" "$@" && return 0
        printf -- '--python %s: not found, or it does not start%s\n' \
            "$wanted_name" "${*:+, or it lacks the modules $*}"
    else
        find_python "$wanted" "$@" && return 0
        printf 'no usable Python found among the versions %s%s; install one, or name one with --python\n' \
            "$wanted" "${*:+ (with the modules $*)}"
    fi
    return 1
}

# --- a directory made in place ------------------------------------------------

# is_ready DIR REQUEST: complete, made for this request, in this place (the
# request holds the path), and its interpreter is still there.
is_ready() {
    [ -f "$1/.sandbox" ] && [ -x "$1/bin/python" ] &&
        [ "$(cat "$1/.sandbox")" = "$2" ]
}

lock() {
    lock_reported=
    lock_failures=0
    until (set -C && printf '%s\n' "$$" >"$1") 2>/dev/null; do
        lock_pid=$(cat "$1" 2>/dev/null) || lock_pid=
        if [ -n "$lock_pid" ]; then
            if ! kill -0 "$lock_pid" 2>/dev/null; then
                # The process is gone without having removed its lock.
                [ "$(cat "$1" 2>/dev/null)" != "$lock_pid" ] || rm -f "$1"
                continue
            fi
            if [ -z "$lock_reported" ]; then
                printf '%s: waiting for process %s, which holds %s\n' \
                    "$prog" "$lock_pid" "$1" >&2
                lock_reported=1
            fi
        elif lock_failures=$((lock_failures + 1)) && [ "$lock_failures" -gt 5 ]; then
            die "cannot write the lock file $1"
        fi
        sleep 1
    done
    held_lock=$1
}

unlock() {
    rm -f "$held_lock"
    held_lock=
}

# open_env DIR REQUEST: takes the lock. Returns 1, without it, if another
# process has completed DIR meanwhile. Otherwise DIR is new, and is removed
# again at any exit before close_env.
open_env() {
    lock "$1.lock"
    if is_ready "$1" "$2"; then
        unlock
        return 1
    fi
    if [ -e "$1" ] || [ -h "$1" ]; then
        # Other files are not removed.
        if [ ! -d "$1" ]; then
            die "$1 exists and is not a directory; give another DIR"
        fi
        if [ ! -f "$1/.sandbox" ] && [ ! -d "$1/.sandbox.making" ] &&
            [ -n "$(ls -A "$1")" ]; then
            die "$1 is not empty and was not made by this script; give another DIR"
        fi
        wipe "$1" || exit 1
    fi
    open_dir=$1
    making=$1/.sandbox.making
    mkdir -p "$making/home" "$making/tmp" || die "cannot make the directory $1"
}

# close_env REQUEST: DIR is complete.
close_env() {
    rm -rf "$making"
    printf '%s\n' "$1" >"$open_dir/.sandbox.new"
    mv "$open_dir/.sandbox.new" "$open_dir/.sandbox"
    open_dir=
    unlock
}

# --- installers ---------------------------------------------------------------

# find_uv: the path of a uv that runs, on PATH or made here earlier.
find_uv() {
    for uv_file in "$(command -v uv)" "$root/target/tools/uv/bin/uv"; do
        if [ -n "$uv_file" ] && "$uv_file" --version >/dev/null 2>&1; then
            printf '%s\n' "$uv_file"
            return 0
        fi
    done
    return 1
}

# choose_installer [uv|pip]: sets `installer`, and `uv` if that is uv, which is
# installed into a private venv if the machine has none. Not to be called while
# a directory is open.
choose_installer() {
    uv=$(find_uv) || uv=
    installer=${1:-}
    if [ -z "$installer" ]; then
        if [ -n "$uv" ]; then installer=uv; else installer=pip; fi
    fi
    if [ "$installer" = uv ] && [ -z "$uv" ]; then
        tools=$(absolute "$root/target/tools/uv") || die "cannot make target/tools"
        tools_request="dir: $tools${lf}uv: $UV_VERSION"
        tools_python=$(find_python '3.12 3.11 3.13 3.10 3.9 3.8' venv ensurepip) ||
            die 'no Python 3.8-3.13 with venv to install uv with; install one, or use --installer pip'
        # The caller may have a directory of its own open.
        tools_making=${making:-}
        tools_launcher=${launcher:-}
        if open_env "$tools" "$tools_request"; then
            make_venv pip "$tools_python"
            run "$making/log" "$tools/bin/python" -m pip install "uv==$UV_VERSION" ||
                failed "installing uv $UV_VERSION failed" "$making/log" \
                    'check that pip reaches its package index, or use --installer pip'
            close_env "$tools_request"
        fi
        making=$tools_making
        launcher=$tools_launcher
        uv=$tools/bin/uv
    fi
}

# make_venv INSTALLER PYTHON: an empty venv in the open directory.
make_venv() {
    launcher=$2
    case $1 in
        uv) run "$making/log" "$uv" venv --no-project --allow-existing --python "$2" "$open_dir" ;;
        pip) run "$making/log" "$2" -m venv "$open_dir" ;;
    esac || failed "making a venv with $2 failed" "$making/log" \
        'choose another interpreter with --python'
}

# install SPEC…: into the open directory, with `installer`; output in
# $making/log.
install() {
    case $installer in
        uv) run "$making/log" "$uv" pip install --python "$open_dir/bin/python" "$@" ;;
        pip) run "$making/log" "$open_dir/bin/python" -m pip install "$@" ;;
    esac
}
