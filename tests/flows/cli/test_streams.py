"""A command goes on without its output: a stream that was closed before, or whose reader has gone."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = shlex.quote(sys.executable)
CLOSED = ("", "<&-", ">&-", "2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true", ">&- 2> >(true)")

COMMAND = """
import os, sys, time
from torchmill.flows.cli.streams import keep_streams

keep_streams()
file = open(sys.argv[1], "wb")
assert file.fileno() > 2, "what is printed goes into this file"
time.sleep(0.2)  # the reader has gone
for number in range(20_000):
    print("a line of output", number)
    print("a line of the log", number, file=sys.stderr)
sys.stdout.flush()
sys.stdin.read()
file.write(b"done")
"""


@pytest.mark.parametrize("closed", CLOSED)
def test_the_work_is_done_whatever_streams_are_there(closed: str, tmp_path: Path):
    (tmp_path / "command.py").write_text(COMMAND)
    script = f"exec 3<&0; ({PYTHON} -P command.py file; echo $? > code) {closed}; true"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    deadline_reached = not (tmp_path / "code").exists()
    assert not deadline_reached and (tmp_path / "code").read_text() == "0\n"
    assert (tmp_path / "file").read_bytes() == b"done"


def test_output_that_a_full_disk_refuses_is_an_error(tmp_path: Path):
    (tmp_path / "command.py").write_text(COMMAND)
    command = f"{PYTHON} -P command.py file > /dev/full"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode != 0 and "No space left" in done.stderr


def test_no_name_steers_the_terminal():
    code = "from torchmill.flows.cli.streams import keep_streams\nkeep_streams()\nprint('a\x1b[2Jb', 'é\u202e')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.stdout == "a\\x1b[2Jb é\\u202e\n"
