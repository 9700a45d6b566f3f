"""Describes the Python that runs pcluster, as one JSON object. Python 3.6 to 3.13.

Run in two ways:

    python -c CODE SENTINEL DIRECTORY [REQUIRES]
        by the interpreter that a console script names. DIRECTORY is the script's, which Python puts
        first on sys.path; REQUIRES is the script's `__requires__`. The answer is on stdout, between two
        lines of the sentinel.
    as `sitecustomize` of any other launcher, by PYTHONPATH
        The answer is given when pcluster's command line is about to be imported, so all that the
        launcher does before is part of the answer; the process ends before any code of pcluster runs.
        (`import pcluster` alone gives no answer: a script may do that to read its version, and that
        file is empty in every release.) The answer is a file in the directory `answers` beside the one
        that holds this file, because the launcher may have redirected stdout.

Strings have a character for each byte, because paths and variables may be no UTF-8.
"""
import os
import sys

# What every console script of aws-parallelcluster 3 imports.
COMMAND_LINE = "pcluster.cli"

# The packages whose code decides about the template.
SOURCES = ("pcluster", "aws_cdk", "jsii")


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
    """The first finder on sys.meta_path. A search for a module changes nothing; an import is answered."""

    def __init__(self, directory):
        self.directory = directory

    def find_spec(self, name, path=None, target=None):
        if name != COMMAND_LINE:
            return None
        found = find(name, path, [finder for finder in sys.meta_path if finder is not self])
        if found is not None:
            found.loader = Loader(self.directory)
        return found


class Loader(object):
    def __init__(self, directory):
        self.directory = directory

    def create_module(self, spec):
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
        environment = dict(os.environ)
        rest = environment.pop("PYTHONPATH", "").split(os.pathsep)
        rest = [entry for entry in rest if entry and os.path.abspath(entry) != self.directory]
        if rest:
            environment["PYTHONPATH"] = os.pathsep.join(rest)
        answered = answer(environment)
        answered.update({"directory": os.getcwd(), "arguments": list(sys.argv[1:]), "user": os.geteuid()})
        try:  # sys.executable is the program that PATH has under the name by which Python was started
            answered["running"] = os.readlink("/proc/self/exe")
        except OSError:
            pass
        text = as_json(answered).encode("ascii")
        name = os.path.join(os.path.dirname(self.directory), "answers", str(os.getpid()))
        with open(name + ".part", "wb") as file:
            file.write(text)
        os.rename(name + ".part", name)
        os._exit(0)

    def exec_module(self, module):
        pass


def answer(environment):
    sys_path = [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]
    return {
        "executable": sys.executable,
        "version": ".".join(map(str, sys.version_info[:3])),
        "cacheTag": sys.implementation.cache_tag,
        "flags": flags(),
        "prefix": sys.prefix,
        "sysPath": sys_path,
        "candidates": candidates(sys_path),
        "sources": sorted(set(sum(map(package_directories, SOURCES), []))),
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


def candidates(sys_path):
    """Directories that would be on sys.path if they existed: sites, and those that .pth files name."""
    import site

    directories = []
    try:  # a virtualenv of before version 20 has a site.py of its own, without these
        directories += site.getsitepackages()
        if site.ENABLE_USER_SITE:
            directories.append(site.getusersitepackages())
    except Exception:
        pass
    named = []
    for directory in directories + sys_path:
        named += named_by_pth(directory)
    return sorted(set(os.path.abspath(entry) for entry in directories + named) - set(sys_path))


def named_by_pth(directory):
    named = []
    try:
        files = [name for name in os.listdir(directory) if name.endswith(".pth")]
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:
                lines = os.fsdecode(file.read(1 << 20)).splitlines()
            lines = [line.strip() for line in lines if not line.startswith(("#", "import ", "import\t"))]
            named += [os.path.join(directory, line) for line in lines if line]
    except (OSError, ValueError):
        pass
    return named


def package_directories(package):
    """The directories of a package, which an editable installation may have outside of sys.path."""
    spec = find(package, None, sys.meta_path)
    return [os.path.abspath(entry) for entry in (spec and spec.submodule_search_locations) or []]


def find(name, path, finders):
    for finder in finders:
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # a finder of another package, or one with the interface of before Python 3.4
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
    except Exception:  # the script fails in the same way
        pass


def flags():
    """The flags without -B, which PYTHONDONTWRITEBYTECODE sets too: a check has bytecode of its own."""
    try:
        from subprocess import _args_from_interpreter_flags

        return [flag for flag in _args_from_interpreter_flags() if flag.strip("-B")]
    except Exception:  # a private function, which 3.6 to 3.13 have
        return []


main()
