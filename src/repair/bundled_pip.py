"""Says where this Python keeps the wheel of pip that ensurepip installs: one JSON object on stdout
between two lines of the sentinel.

python bundled_pip.py SENTINEL, on Python 3.6 to 3.13
"""
import glob
import json
import os
import sys
import sysconfig


def find():
    try:
        import ensurepip
    except ImportError:  # Debian packages it apart
        return None
    # Distributors keep the wheels elsewhere (3.10 on).
    directories = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    directories.append(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"))
    for directory in filter(None, directories):
        wheels = sorted(glob.glob(os.path.join(glob.escape(directory), "pip-*.whl")))
        if wheels:
            return wheels[-1]
    return None


sys.stdout.write("\n{0}\n{1}\n{0}\n".format(sys.argv[1], json.dumps({"wheel": find()})))
