"""Finds the wheel of pip that ensurepip would install. Prints a JSON object with the path, or with null if
there is no wheel. The object is between two lines that contain SENTINEL.

python bundled_pip.py SENTINEL, on Python 3.6 to 3.14
"""
import glob
import json
import os
import sys
import sysconfig


def find_wheel():
    try:
        import ensurepip
    except ImportError:  # Debian and Ubuntu have ensurepip in a separate package
        return None
    # From Python 3.10 on, the wheel may be outside ensurepip, in the directory WHEEL_PKG_DIR.
    directories = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    directories.append(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"))
    for directory in filter(None, directories):
        wheels = sorted(glob.glob(os.path.join(glob.escape(directory), "pip-*.whl")))
        if wheels:
            return wheels[-1]
    return None


sys.stdout.write("\n{0}\n{1}\n{0}\n".format(sys.argv[1], json.dumps({"wheel": find_wheel()})))
