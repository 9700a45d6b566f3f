"""Says which Python runs pcluster: one JSON object on stdout between two lines of the sentinel.

Run in two ways, on Python 3.6 to 3.13:
    python -c CODE SENTINEL DIRECTORY   DIRECTORY is the script's, which Python puts on sys.path first
    as sitecustomize of a launcher that cannot be read, with the sentinel in PCLUSTER_SHIM_SENTINEL
"""
import os
import sys


def main():
    inside_launcher = __name__ == "sitecustomize"
    if inside_launcher:
        sentinel = os.environ.pop("PCLUSTER_SHIM_SENTINEL")
        leave_no_trace(os.path.dirname(os.path.abspath(__file__)))
    else:
        sentinel, script_directory = sys.argv[1:3]
        if sys.path and sys.path[0] == "":
            sys.path[0] = script_directory

    import json

    answer = {
        "executable": sys.executable,
        "version": ".".join(map(str, sys.version_info[:3])),
        "cacheTag": sys.implementation.cache_tag,
        "flags": flags(),
        "prefix": sys.prefix,
        "externallyManaged": externally_managed(),
        "sysPath": [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path],
        "environment": {
            name: value for name, value in os.environ.items() if name == "PATH" or name.startswith(SHOWN)
        },
    }
    framed = "\n{0}\n{1}\n{0}\n".format(sentinel, json.dumps(answer))
    sys.stdout.flush()
    os.write(1, framed.encode("ascii"))
    os._exit(0)


# What a wrapper may set that makes the same Python behave otherwise. No other variable is told:
# the answer is kept in a file.
SHOWN = ("PYTHON", "NODE_", "JSII_", "LD_LIBRARY_PATH", "DYLD_", "VIRTUAL_ENV", "CONDA_PREFIX")


def leave_no_trace(directory):
    """Takes our directory out again, and lets the sitecustomize run that it hid."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != directory]
    rest = os.environ.get("PYTHONPATH", "").split(os.pathsep)[1:]
    if rest:
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    else:
        del os.environ["PYTHONPATH"]
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError:
        sys.modules["sitecustomize"] = ours


def externally_managed():
    """The marker of PEP 668, where it counts: in no virtual environment."""
    if sys.prefix != sys.base_prefix:
        return None
    import sysconfig

    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return marker if os.path.exists(marker) else None


def flags():
    try:
        from subprocess import _args_from_interpreter_flags

        return _args_from_interpreter_flags()
    except Exception:  # a private function, though the same from 3.6 to 3.13
        return []


main()
