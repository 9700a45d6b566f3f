#!/usr/bin/env python3
"""Answers a question after AWS has changed: PY at_prompt.py ENDPOINT QUESTION CODE COMMAND…

COMMAND runs at a terminal of its own. When QUESTION appears there, CODE is run with `ec2` for the endpoint, then `y` is
the answer. It prints what the terminal shows, and ends with the status of the command.
"""

import os
import pty
import sys

import boto3

endpoint, question, code, command = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(command[0], command)
shown = b""
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:  # This is how Linux reports that a terminal has ended.
        break
    if not piece:
        break
    shown += piece
    if question and question.encode() in shown:
        question = None
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        exec(code, {"ec2": boto3.client("ec2", "us-east-1", endpoint_url=endpoint, **keys)})
        os.write(terminal, b"y\n")
sys.stdout.buffer.write(shown)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
