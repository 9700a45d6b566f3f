#!/usr/bin/env python3
"""A proxy in front of a moto server: it logs requests, denies or breaks them, and kills processes.

    proxy.py UPSTREAM --log FILE [--fail N[,M]] [--html] [--deny SERVICE:ACTION ...]
                      [--answer SERVICE:ACTION=CODE ...] [--body SERVICE:ACTION=FILE ...]
                      [--rewrite SERVICE:ACTION=OLD=>NEW ...] [--refuse TEXT] [--hold N FILE]
                      [--kill-before N | --kill-after N] [--kill-pid-file FILE]

It listens on a free port of 127.0.0.1, prints its endpoint as the first line and
ends when its stdin ends. It writes the log FILE: one line `SERVICE ACTION` for
each request, where the action of S3 is `METHOD path?query`. A request that changes
something is a write. --fail, --hold, --kill-before and --kill-after count the
writes from 1, including retries and denied writes, but not those with DryRun.

--fail answers InternalError with status 500 in place of the N-th write; --html
gives an HTML page instead, as moto does. --deny answers as AWS does if the
permission is missing; for S3 the action is a permission: s3:ListBucket, s3:GetObject,
s3:PutObject, s3:DeleteObject, s3:ListBucketVersions, s3:ListAllMyBuckets; `ec2:*`
denies the service, and `ec2:DescribeImages@eu-west-1` the action in one region.
--answer gives an error with this code, or for `html` a page with status 200, as a
captive portal does. --body gives the content of FILE as the answer, and --rewrite
replaces text in the answer of the server; the tests need both for answers that
moto cannot give. --refuse answers InvalidParameterValue to each write of EC2 that
contains TEXT. --hold sends the answer to the N-th write only when FILE exists.
--kill-before and --kill-after send SIGKILL to a process group, before or after the
N-th write reaches the server; the file of --kill-pid-file contains the group's id.
"""

import argparse
import http.client
import http.server
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.parse

QUERY_READS = re.compile(r"(Describe|List|Get|Lookup|Assume|Search|Filter)")
HTML = "<!doctype html><title>500 Internal Server Error</title><h1>Internal Server Error</h1>"
HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive", "content-length", "expect")


class Request:
    """What one HTTP request asks for: service, action, whether it writes."""

    def __init__(self, method, path, headers, body):
        self.method = method
        parts = urllib.parse.urlsplit(path)
        self.json = "X-Amz-Target" in headers
        scope = (headers.get("Authorization") or "").partition("Credential=")[2].split(",")[0].split("/")
        self.service = scope[3] if len(scope) == 5 else "unsigned"
        self.region = scope[2] if len(scope) == 5 else None
        query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
        if (headers.get("Content-Type") or "").startswith("application/x-www-form-urlencoded"):
            query.update(urllib.parse.parse_qs(body.decode("utf-8", "replace")))
        if self.service == "s3":
            self.action = f"{method} {path}"
            self.write = method in ("PUT", "DELETE") or (method == "POST" and "select" not in query)
            self.permission = self.s3_permission(parts.path, query)
        elif self.service == "imagebuilder":
            self.json = True
            self.action = self.permission = parts.path.strip("/")
            self.write = not QUERY_READS.match(self.action)
        else:
            self.action = (headers.get("X-Amz-Target") or "").rpartition(".")[2] or query.get("Action", ["-"])[0]
            self.write = self.action != "-" and not QUERY_READS.match(self.action)
            self.permission = self.action
        self.write = self.write and query.get("DryRun", ["false"])[0].lower() != "true"

    def s3_permission(self, path, query):
        key = path.strip("/").partition("/")[2]
        if self.method == "DELETE" or "delete" in query:
            return "DeleteObject"
        if self.method not in ("GET", "HEAD"):
            return "PutObject"
        if key:
            return "GetObject"
        if not path.strip("/"):
            return "ListAllMyBuckets"
        return "ListBucketVersions" if "versions" in query else "ListBucket"


def page(text, kind):
    return [("Content-Type", kind)], text.encode()


def error(request, code, message):
    """Headers and body of an error in the format of the request's service."""
    if request.json:
        return page(json.dumps({"__type": code, "message": message}), "application/x-amz-json-1.1")
    fault = f"<Code>{code}</Code><Message>{message}</Message>"
    if request.service == "ec2":
        body = f"<Response><Errors><Error>{fault}</Error></Errors><RequestID>0</RequestID></Response>"
    elif request.service == "s3":
        body = f"<Error>{fault}<RequestId>0</RequestId></Error>"
    else:
        body = f"<ErrorResponse><Error><Type>Sender</Type>{fault}</Error><RequestId>0</RequestId></ErrorResponse>"
    return page('<?xml version="1.0" encoding="UTF-8"?>' + body, "text/xml")


def denial(request):
    user = "arn:aws:iam::123456789012:user/tester"
    message = f"User: {user} is not authorized to perform: {request.service}:{request.permission}"
    if request.service == "ec2":
        return error(request, "UnauthorizedOperation", f"You are not authorized to perform this operation. {message}")
    if request.service == "s3":
        return error(request, "AccessDenied", "Access Denied")
    return error(request, "AccessDeniedException" if request.json else "AccessDenied", message)


def page_of_html():
    """The answer of a captive portal or a proxy in place of AWS: an HTML page with status 200."""
    return (200, *page(HTML, "text/html"))


class Rules:
    """The options, the count of writes and the log."""

    def __init__(self, options):
        self.options = options
        self.upstream = urllib.parse.urlsplit(options.upstream)
        self.failing = {int(number) for number in options.fail.split(",") if number}
        self.lock = threading.Lock()
        self.writes = 0
        self.is_cut_off = False
        open(options.log, "w", encoding="utf-8").close()

    def note(self, request):
        """Logs the request. Returns its number among the writes, or 0 if it is not a write."""
        with self.lock, open(self.options.log, "a", encoding="utf-8") as log:
            log.write(f"{request.service} {request.action}\n")
            self.writes += request.write
            return self.writes if request.write else 0

    def denied(self, request):
        action = f"{request.service}:{request.permission}"
        names = (action, f"{request.service}:*", f"{action}@{request.region}")
        return any(name in self.options.deny for name in names)

    def answer(self, request):
        """The code of an error for this request, or `html`."""
        asked = f"{request.service}:{request.permission}"
        return dict(rule.split("=") for rule in self.options.answer).get(asked)

    def body(self, request):
        """The file with the answer for this request."""
        return dict(rule.split("=", 1) for rule in self.options.body).get(f"{request.service}:{request.permission}")

    def rewrite(self, request, content):
        for rule in self.options.rewrite:
            asked, _, texts = rule.partition("=")
            if asked == f"{request.service}:{request.permission}":
                old, new = texts.split("=>")
                content = content.replace(old.encode(), new.encode())
        return content

    def refuses(self, request, body):
        text = self.options.refuse
        return text and request.write and request.service == "ec2" and text in urllib.parse.unquote_plus(body.decode())

    def hold(self, number):
        which, file = self.options.hold or ("0", "")
        while number and number == int(which) and not os.path.exists(file):
            time.sleep(0.01)

    def kill(self):
        """Imitates a machine that stops: kills the process group, and lets no later request reach the server."""
        self.is_cut_off = True
        with open(self.options.kill_pid_file, encoding="utf-8") as file:
            os.killpg(int(file.read()), signal.SIGKILL)


def handler_of(rules):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, self.headers, body)
            if rules.is_cut_off:
                self.close_connection = True
                return None
            number = rules.note(request)
            if rules.denied(request):
                return self.send(403, *denial(request))
            answer = rules.answer(request)
            if answer:
                return self.send(*(page_of_html() if answer == "html" else (400, *error(request, answer, answer))))
            if rules.body(request):
                with open(rules.body(request), encoding="utf-8") as file:
                    return self.send(200, *page(file.read(), "text/xml"))
            if rules.refuses(request, body):
                return self.send(400, *error(request, "InvalidParameterValue", "Tag value is not valid"))
            if number and number in rules.failing:
                fault = error(request, "InternalError", "An internal error has occurred")
                return self.send(500, *(page(HTML, "text/html") if rules.options.html else fault))
            if number and number == rules.options.kill_before:
                self.close_connection = True
                return rules.kill()
            status, headers, content = self.forward(body)
            if number and number == rules.options.kill_after:
                self.close_connection = True
                return rules.kill()
            rules.hold(number)
            self.send(status, headers, rules.rewrite(request, content))

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

        def forward(self, body):
            connection = http.client.HTTPConnection(rules.upstream.hostname, rules.upstream.port, timeout=300)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            # `send` computes Content-Length from the body. The answer to a HEAD has no body, so the
            # Content-Length of the server is passed on.
            dropped = HOP_BY_HOP if self.command != "HEAD" else HOP_BY_HOP[:3]
            return answer.status, [pair for pair in answer.getheaders() if pair[0].lower() not in dropped], content

        def send(self, status, headers, content):
            self.send_response_only(status)
            for key, value in headers:
                self.send_header(key, value)
            if self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_):
            """Prints nothing: requests are in the log, and stderr is only for failures."""

    return Handler


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", metavar="UPSTREAM")
    parser.add_argument("--log", metavar="FILE", required=True)
    parser.add_argument("--fail", metavar="N[,M]", default="")
    parser.add_argument("--html", action="store_true")
    parser.add_argument("--deny", metavar="ACTION", nargs="+", action="extend", default=[])
    parser.add_argument("--answer", metavar="ACTION=CODE", nargs="+", action="extend", default=[])
    parser.add_argument("--body", metavar="ACTION=FILE", nargs="+", action="extend", default=[])
    parser.add_argument("--rewrite", metavar="ACTION=OLD=>NEW", nargs="+", action="extend", default=[])
    parser.add_argument("--refuse", metavar="TEXT")
    parser.add_argument("--hold", metavar=("N", "FILE"), nargs=2)
    parser.add_argument("--kill-before", metavar="N", type=int)
    parser.add_argument("--kill-after", metavar="N", type=int)
    parser.add_argument("--kill-pid-file", metavar="FILE")
    options = parser.parse_args()
    if (options.kill_before or options.kill_after) and not options.kill_pid_file:
        parser.error("--kill-pid-file is missing")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(Rules(options)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # Threads of open connections would keep the process alive.


if __name__ == "__main__":
    main()
