"""A process that was forked ahead does what it is told, once, and is asked about as others are."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

# Forking is for a process that has no threads, which that of the tests has: torch's.
BEGIN = """
import os, signal, subprocess, sys, time
from torchmill.flows.services.prewarm.forked_process import ForkedProcess

def shout(orders):
    print(orders.readline().decode().upper(), end="", flush=True)
    return 7

def sleep(orders):
    orders.readline()
    time.sleep(60)
"""


def told(code: str, tmp_path: Path) -> str:
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(code)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60).stdout


def test_it_waits_for_orders_and_tells_how_it_ended(tmp_path):
    code = """
    forked = ForkedProcess(shout)
    assert forked.poll() is None
    forked.stdin.write(b"hello\\n")
    forked.stdin.flush()
    print(forked.wait(), forked.poll(), forked.returncode)
    """
    assert told(code, tmp_path) == "HELLO\n7 7 7\n"


def test_without_orders_it_ends_with_whoever_forked_it(tmp_path):
    code = """
    first = ForkedProcess(shout)
    second = ForkedProcess(shout, (first,))
    first.stdin.close()
    print(first.wait(10), second.poll())
    """
    assert told(code, tmp_path).split() == ["7", "None"]  # the second one does not hold the first one's orders open


def test_it_is_ended_by_signals_and_a_wait_has_an_end(tmp_path):
    code = """
    forked = ForkedProcess(sleep)
    forked.stdin.write(b"go\\n")
    forked.stdin.flush()
    try:
        forked.wait(0.1)
    except subprocess.TimeoutExpired:
        forked.terminate()
    print(forked.wait(10))
    forked.kill()
    """
    assert told(code, tmp_path) == f"{-signal.SIGTERM}\n"


def test_what_it_raises_is_shown_and_is_a_failure(tmp_path):
    code = """
    def fail(orders):
        raise ValueError("no")

    print(ForkedProcess(fail).wait(10), flush=True)
    os.dup2(1, 2)
    """
    assert told(code, tmp_path) == "1\n"
    assert os.getpid()  # and whoever forked it goes on
