"""A package index on the loopback: PyPI, except for what a test changes.

    python index.py LOG UPSTREAM [missing=NAME] [broken=NAME] [worse=NAME,SITE] [own=NAME,DIR]

It prints its URL, and logs the path of each request to LOG. An option changes the answers about the project
NAME. Requests about other projects are redirected to UPSTREAM. missing: the project does not exist. broken: its
newest wheel is not a wheel. worse: its newest wheel can be installed, and is made from the distribution in
SITE. own: its wheels are those in DIR. The server ends when its stdin ends.
"""
import http.server
import os
import re
import sys
import threading
import zipfile

log, upstream = open(sys.argv[1], "a", buffering=1), sys.argv[2].rstrip("/")
wanted = dict(option.split("=", 1) for option in sys.argv[3:])
VERSION = "1.999.0"
files = {}


def normal(name):
    return re.sub("[-_.]+", "-", name).lower()


def worse(name, site):
    """Returns a wheel of the distribution that is installed in SITE, with a newer version number."""
    info = next(entry for entry in os.listdir(site) if normal(entry).startswith(normal(name) + "-"))
    path = log.name + ".whl"
    with open(os.path.join(site, info, "RECORD")) as record, zipfile.ZipFile(path, "w") as wheel:
        lines = []
        for line in record:
            entry = line.split(",")[0]
            if entry.endswith(".pyc") or entry.endswith(("RECORD", "INSTALLER", "REQUESTED")):
                continue
            with open(os.path.join(site, entry), "rb") as file:
                content = file.read()
            new = entry.replace(info, "%s-%s.dist-info" % (info.split("-1.")[0], VERSION))
            if entry.endswith("METADATA"):
                content = re.sub(rb"\nVersion: .*", b"\nVersion: " + VERSION.encode(), content, 1)
                content = re.sub(rb"\nRequires-Dist: aws.cdk.*", b"", content)
            wheel.writestr(new, content)
            lines.append(new + ",,")
        record_name = "%s-%s.dist-info/RECORD" % (info.split("-1.")[0], VERSION)
        wheel.writestr(record_name, "\n".join(lines + [record_name + ",,"]) + "\n")
    with open(path, "rb") as file:
        return file.read()


class Index(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", kind="text/html", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        log.write(self.path + "\n")
        name = normal(self.path.strip("/").split("/")[-1])
        if self.path in files:
            return self.answer(200, files[self.path], "application/octet-stream")
        if name == normal(wanted.get("missing", "")):
            return self.answer(404)
        for way in ("broken", "worse"):
            project, _, site = wanted.get(way, "").partition(",")
            if name == normal(project):
                stem = project.replace("aws-cdk.", "aws_cdk.").replace("-", "_")
                path = "/files/%s-%s-py3-none-any.whl" % (stem, VERSION)
                files[path] = worse(project, site) if way == "worse" else b"PK\x03\x04 no wheel at all"
                page = '<html><body><a href="%s">%s</a></body></html>' % (path, path.split("/")[-1])
                return self.answer(200, page.encode())
        project, _, directory = wanted.get("own", "").partition(",")
        if project and name == normal(project):
            for file in os.listdir(directory):
                with open(os.path.join(directory, file), "rb") as wheel:
                    files["/files/" + file] = wheel.read()
            links = ['<a href="/files/%s">%s</a>' % (file, file) for file in os.listdir(directory)]
            return self.answer(200, ("<html><body>%s</body></html>" % " ".join(links)).encode())
        return self.answer(302, Location="%s/%s/" % (upstream, name))

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("http://127.0.0.1:%d/simple" % server.server_address[1], flush=True)
sys.stdin.read()
