"""Describes the Python that runs pcluster, as one JSON object. Python 3.6 to 3.14.

Run in two ways:

    python -c CODE SENTINEL DIRECTORY [REQUIRES]
        by the interpreter that a console script names. DIRECTORY is the script's directory, which Python
        puts first on sys.path; REQUIRES is the script's `__requires__`. The answer is on stdout, between two
        lines of the sentinel.
    as `sitecustomize` of any other launcher, by PYTHONPATH
        The answer is given when pcluster's command line is about to be imported, so whatever the
        launcher did before is part of the answer; the process ends before any code of pcluster runs.
        (`import pcluster` alone gives no answer: a script may do that only to read pcluster's version.
        That import runs no code, because pcluster/__init__.py contains none in any release.)
        The answer is a file in the directory `answers` next to this file's directory, because the
        launcher may have redirected stdout.
        If there is a file `start` next to that directory, the answer is instead whether pcluster starts:
        {"start": null}, or the class of the exception that its import raises. Its `main` is never called.

Strings have a character for each byte, because paths and variables need not be UTF-8.
"""
import os
import sys

# The package that every console script of aws-parallelcluster 3 imports from.
COMMAND_LINE = "pcluster.cli"


def main():
    if __name__ == "sitecustomize":
        directory = os.path.dirname(os.path.abspath(__file__))
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != directory]
        run_hidden_sitecustomize()
        sys.meta_path.insert(0, Finder(directory))
        return
    sentinel, script_directory = sys.argv[1:3]
    if sys.path and sys.path[0] == "":
        sys.path[0] = script_directory
    for requires in sys.argv[3:]:
        activate(requires)
    sys.stdout.flush()
    framed = "\n{0}\n{1}\n{0}\n".format(sentinel, as_json(answer(os.environ)))
    os.write(1, framed.encode("ascii"))
    os._exit(0)


def run_hidden_sitecustomize():
    """Import the sitecustomize that this file hides, from a later entry of sys.path."""
    own = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError:
        sys.modules["sitecustomize"] = own


class Finder(object):
    """The first finder on sys.meta_path, and the loader of what it finds.

    Searching for pcluster.cli changes nothing; importing pcluster.cli gives the answer.
    """

    def __init__(self, directory):
        self.directory = directory

    def find_spec(self, name, path=None, target=None):
        if name != COMMAND_LINE:
            return None
        found = find(name, path, [finder for finder in sys.meta_path if finder is not self])
        if found is not None:
            found.loader = self
        return found

    def create_module(self, spec):
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
        environment = dict(os.environ)
        rest = environment.pop("PYTHONPATH", "").split(os.pathsep)
        rest = [entry for entry in rest if entry and os.path.abspath(entry) != self.directory]
        if rest:
            environment["PYTHONPATH"] = os.pathsep.join(rest)
        question = os.path.dirname(self.directory)
        if os.path.exists(os.path.join(question, "start")):
            answered = {"start": start()}
        else:
            answered = answer_as_launched(environment)
        text = as_json(answered).encode("ascii")
        name = os.path.join(question, "answers", str(os.getpid()))
        with open(name + ".part", "wb") as file:
            file.write(text)
        os.rename(name + ".part", name)
        os._exit(0)

    def exec_module(self, module):
        pass


def answer_as_launched(environment):
    answered = answer(environment)
    answered.update({"directory": os.getcwd(), "arguments": list(sys.argv[1:]), "user": os.geteuid()})
    try:  # for a Python started as `pcluster`, sys.executable is the `pcluster` on PATH
        answered["running"] = os.readlink("/proc/self/exe")
    except OSError:
        pass
    return answered


def start():
    """Start pcluster as synthesis.py does, and return the class of the exception that this raises, or None."""
    try:
        from pcluster.cli.entrypoint import add_cli_commands, gen_parser
        from pcluster.cli.model import load_model, package_spec

        add_cli_commands(gen_parser(load_model(package_spec()))[1])
    except (Exception, SystemExit) as error:
        return type(error).__name__
    return None


def answer(environment):
    sys_path = [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]
    return {
        "executable": sys.executable,
        "version": ".".join(map(str, sys.version_info[:3])),
        "cacheTag": sys.implementation.cache_tag,
        "flags": flags(),
        "prefix": sys.prefix,
        "sysPath": sys_path,
        "environment": dict(environment),
    }


def as_json(value):
    import json

    return json.dumps(in_bytes(value))


def in_bytes(value):
    if isinstance(value, str):
        return os.fsencode(value).decode("latin-1")
    if isinstance(value, list):
        return [in_bytes(item) for item in value]
    if isinstance(value, dict):
        return {in_bytes(key): in_bytes(item) for key, item in value.items()}
    return value


def find(name, path, finders):
    for finder in finders:
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # another package's finder failed, or has the interface from before Python 3.4
            continue
        if spec is not None:
            return spec
    return None


def activate(requires):
    """Import pkg_resources as a script with `__requires__` does: it may put eggs on sys.path."""
    import __main__

    __main__.__requires__ = requires
    try:
        import pkg_resources  # noqa: F401
    except Exception:  # the import in the console script will fail in the same way
        pass


def flags():
    """The flags of this Python, except -B, which every run of a check adds."""
    kept = []
    try:
        from subprocess import _args_from_interpreter_flags

        arguments = iter(_args_from_interpreter_flags())
        for argument in arguments:
            if argument == "-X":
                next(arguments, None)  # this list lacks some -X options; the loop below adds all
            elif argument.strip("-B"):
                kept.append(argument)
    except Exception:  # a private function, which other versions than 3.6 to 3.14 may lack
        pass
    for name, value in getattr(sys, "_xoptions", {}).items():
        kept += ["-X", name if value is True else "{}={}".format(name, value)]
    return kept


main()
