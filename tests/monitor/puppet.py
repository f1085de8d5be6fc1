"""A process that does what it is told, line by line: the kernel under watch in these tests."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_BODY = """
import ctypes, json, os, resource, subprocess, sys, threading, time

def burn(seconds):
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass

def start(code, **how):
    made = subprocess.Popen([sys.executable, "-ISc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how)
    made.stdout.readline()
    return made

def used():
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return [usage.ru_utime + usage.ru_stime for usage in found]

BURN = '''
import sys, time
while time.process_time() < {seconds}:
    pass
print(flush=True)
sys.stdin.read()
'''
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    what = json.loads(line)
    try:
        answer = eval(what)
    except SyntaxError:
        answer = exec(what)
    try:
        text = json.dumps(answer)
    except TypeError:
        text = json.dumps(None)
    print(text, flush=True)
"""


class Puppet:
    """A Python process; `do` has it run a statement or return the value of an expression."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", _BODY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid
        assert self._answer() == "ready"

    def do(self, code: str) -> Any:
        """Run `code` there and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """Kill it; what it started ends with its stdin."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
