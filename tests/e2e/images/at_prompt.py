#!/usr/bin/env python3
"""Changes an account while a command waits for an answer: PY at_prompt.py ENDPOINT QUESTION CODE COMMAND…

COMMAND runs at a terminal of its own. When QUESTION appears there, this script runs the Python code CODE, in which
`ec2` is a boto3 client for ENDPOINT. Then it types `y`. At the end, it prints what the terminal showed, and exits with
the status of COMMAND.
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
