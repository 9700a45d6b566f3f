"""Compiles the given files, and the sources below the given directories, in the order of the arguments.

    python compile.py SENTINEL PATH...

Python 3.6 to 3.14. A file of bytecode is written whole or not at all. compileall does not ensure that on a
full disk: before 3.12.8 and 3.13.1, importlib did not notice that it had written only a part of a file
(https://github.com/python/cpython/issues/126606). Python fails on such an incomplete file instead of
compiling the source again. A source that cannot be compiled or has too long a name stays without bytecode.
A source whose bytecode is current is not compiled again.

Prints one JSON object on stdout: "full" is the error of a full disk, or null. The object is between two lines
that contain SENTINEL, because a sitecustomize may print to stdout too.
"""
import errno
import importlib.machinery
import importlib.util
import json
import marshal
import os
import sys

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main():
    sentinel, paths = sys.argv[1], sys.argv[2:]
    full = None
    try:
        for source in find_sources(paths):
            compile_source(source)
    except OSError as error:
        full = str(error)
    sys.stdout.write("\n{0}\n{1}\n{0}\n".format(sentinel, json.dumps({"full": full})))


def find_sources(paths):
    """Yields each source once, even if several of the paths contain it."""
    found = set()
    for path in paths:
        for source in [path] if os.path.isfile(path) else walk(path):
            if source not in found:
                found.add(source)
                yield source


def walk(directory):
    for parent, _, names in os.walk(directory):
        for name in names:
            if name.endswith(".py"):
                yield os.path.join(parent, name)


def compile_source(source):
    try:
        loader = importlib.machinery.SourceFileLoader("source", source)
        status = os.stat(source)
        header, path = get_header(status), importlib.util.cache_from_source(source)
        if not has_header(path, header):
            code = loader.source_to_code(loader.get_data(source), source)
            write_whole(path, header + marshal.dumps(code), status.st_mode)
    except OSError as error:
        if error.errno in FULL:
            raise
    except Exception:  # whatever the compiler raises: SyntaxError, ValueError, RecursionError and others
        pass


def get_header(status):
    """Returns the header of the bytecode (PEP 552): the magic number, flags from Python 3.7 on, and the time
    and size of the source."""
    flags = b"" if sys.version_info < (3, 7) else bytes(4)
    numbers = (int(status.st_mtime), status.st_size)
    fields = [(number & 0xFFFFFFFF).to_bytes(4, "little") for number in numbers]
    return importlib.util.MAGIC_NUMBER + flags + b"".join(fields)


def has_header(path, header):
    if not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(header)) == header


def write_whole(path, content, mode):
    """Writes a file as importlib does: with the source's permissions, and writable for its owner."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = "{}.{}".format(path, os.getpid())
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, (mode | 0o200) & 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except OSError:
        os.unlink(partial)
        raise


main()
