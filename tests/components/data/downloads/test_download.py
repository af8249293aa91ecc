import contextlib
import errno
import functools
import gzip
import hashlib
import http.server
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.components.data.toy_server import CONTENT, FILE, GZIPPED, REPACKED
from torchmill.components.data.downloads.download import MIRROR_VARIABLE, download, own_mirrors
from torchmill.components.data.downloads.http import Wire, open_url
from torchmill.components.data.progress import shown
from torchmill.components.errors import ConfigError, Unreachable, UserError

HALF = len(GZIPPED) // 2


class Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


def wire(clock: Clock | None = None, **changed) -> Wire:
    clock = clock or Clock()
    return replace(Wire(sleep=clock.sleep, clock=lambda: clock.now, chance=lambda: 0.5), **changed)


def get(folder: Path, *mirrors: str, file=FILE, **changed) -> Path:
    download(file, folder / "toy.gz", mirrors, wire=changed.pop("over", None) or wire(**changed))
    return folder / "toy.gz"


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"toy.gz.lock"}


def test_a_file_appears_whole_and_alone(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED))
    assert gzip.decompress(get(tmp_path / "new", server.url).read_bytes()) == CONTENT
    assert left_over(tmp_path / "new") == {"toy.gz"}
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_file_that_is_there_is_not_asked_for(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.fail(500))
    (tmp_path / "toy.gz").write_bytes(GZIPPED)
    get(tmp_path, server.url)
    assert not server.requests


def test_a_damaged_file_is_replaced(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED))
    (tmp_path / "toy.gz").write_bytes(GZIPPED[:HALF])
    assert get(tmp_path, server.url).read_bytes() == GZIPPED


def test_an_interrupted_download_resumes_where_it_stopped(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED, cut=HALF if n == 1 else None))
    assert get(tmp_path, server.url).read_bytes() == GZIPPED
    assert server.requests[1].headers["Range"] == f"bytes={HALF}-"
    assert server.requests[1].headers["If-Range"] == '"1"'
    assert len(server.requests) == 2


def test_a_server_that_ignores_ranges_is_read_from_the_start(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED, ranges=False, cut=HALF if n == 1 else None))
    assert get(tmp_path, server.url).read_bytes() == GZIPPED


def test_a_server_that_names_no_version_is_read_from_the_start(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED, tag="", cut=HALF if n == 1 else None))
    assert get(tmp_path, server.url).read_bytes() == GZIPPED
    assert server.requests[1].headers["Range"] is None


def test_a_weak_tag_is_no_reason_to_go_on(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED, tag='W/"1"', cut=HALF if n == 1 else None))
    assert get(tmp_path, server.url).read_bytes() == GZIPPED
    assert server.requests[1].headers["Range"] is None


@pytest.mark.parametrize("if_range", [True, False], ids=["keeps to If-Range", "ignores If-Range"])
def test_a_file_that_changed_on_the_server_is_never_glued_to_the_old_part(serve, tmp_path, if_range):
    def answer(exchange, n):
        if n == 1:
            exchange.send(REPACKED, tag='"old"', cut=HALF)
        else:
            exchange.send(GZIPPED, tag='"new"', if_range=if_range)

    server = serve(answer)
    assert get(tmp_path, server.url).read_bytes() == GZIPPED


def test_halves_of_two_files_under_one_tag_are_thrown_away_and_read_once_more(serve, tmp_path):
    other = b"\0" * len(GZIPPED)
    server = serve(lambda exchange, n: exchange.send(other if n == 1 else GZIPPED, cut=HALF if n == 1 else None))
    assert get(tmp_path, server.url).read_bytes() == GZIPPED
    assert [request.headers["Range"] for request in server.requests] == [None, f"bytes={HALF}-", None]


def test_another_mirror_with_another_wrapping_starts_over(serve, tmp_path):
    stuck = serve(lambda exchange, n: exchange.send(REPACKED, cut=HALF) if n == 1 else exchange.fail(503))
    good = serve(lambda exchange, n: exchange.send(GZIPPED))
    assert get(tmp_path, stuck.url, good.url).read_bytes() == GZIPPED
    assert good.requests[0].headers["Range"] is None


def test_a_part_of_another_mirror_outlives_one_that_refuses(serve, tmp_path):
    first = serve(lambda exchange, n: exchange.fail(404))
    second = serve(lambda exchange, n: exchange.send(GZIPPED, cut=HALF) if n == 1 else exchange.fail(503))
    with pytest.raises(Unreachable):
        get(tmp_path, first.url, second.url)
    second.answer = lambda exchange, n: exchange.send(GZIPPED)
    get(tmp_path, first.url, second.url)
    assert second.requests[-1].headers["Range"] == f"bytes={HALF}-"


def test_503_twice_and_then_200_is_a_success_after_two_growing_pauses(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.fail(503) if n < 3 else exchange.send(GZIPPED))
    clock = Clock()
    get(tmp_path, server.url, over=wire(clock))
    assert clock.pauses == [0.25, 0.5]  # chance 0.5 of at most 0.5 and 1 s


def test_a_server_that_says_when_to_come_back_is_heard(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.fail(429, Retry_After="3") if n < 2 else exchange.send(GZIPPED))
    clock = Clock()
    get(tmp_path, server.url, over=wire(clock))
    assert clock.pauses == [3.0]


@pytest.mark.parametrize("status", [403, 404])
def test_a_mirror_that_refuses_is_asked_once_and_the_next_one_takes_over(serve, tmp_path, status):
    first = serve(lambda exchange, n: exchange.fail(status))
    second = serve(lambda exchange, n: exchange.send(GZIPPED))
    get(tmp_path, first.url, second.url)
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_progress_forgives_earlier_failures(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED, cut=70_000))
    assert get(tmp_path, server.url).read_bytes() == GZIPPED
    assert len(server.requests) == 9


def test_no_progress_ends_after_four_attempts(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED, ranges=False, cut=HALF))
    with pytest.raises(Unreachable, match="broke off after"):
        get(tmp_path, server.url)
    assert len(server.requests) == 4


def test_after_a_long_silence_the_mirrors_left_get_one_attempt_each(serve, tmp_path):
    servers = [serve(lambda exchange, n: exchange.fail(503)) for _ in range(3)]
    clock = Clock()

    def slow(request):
        clock.now += 6.0
        return open_url(request)

    with pytest.raises(Unreachable):
        get(tmp_path, *(server.url for server in servers), over=wire(clock, open_url=slow))
    assert [len(server.requests) for server in servers] == [4, 1, 1]


@pytest.mark.parametrize("held", [GZIPPED, GZIPPED + b"more"], ids=["whole", "stale"])
def test_a_range_beyond_the_end_means_whole_or_stale(serve, tmp_path, held):
    server = serve(lambda exchange, n: exchange.fail(416) if exchange.headers["Range"] else exchange.send(GZIPPED))
    (tmp_path / "toy.gz.part").write_bytes(held)
    (tmp_path / "toy.gz.part.json").write_text(json.dumps({"url": f"{server.url}toy.gz", "etag": '"1"'}))
    assert get(tmp_path, server.url).read_bytes() == GZIPPED
    assert len(server.requests) == (1 if held == GZIPPED else 2)
    assert left_over(tmp_path) == {"toy.gz"}


def test_a_part_that_only_lacks_its_name_needs_no_server(tmp_path):
    (tmp_path / "toy.gz.part").write_bytes(GZIPPED)
    origin = {"url": "http://127.0.0.1:9/toy.gz", "total_bytes": len(GZIPPED)}
    (tmp_path / "toy.gz.part.json").write_text(json.dumps(origin))
    assert get(tmp_path, "http://127.0.0.1:9").read_bytes() == GZIPPED


BAD = {
    "truncated": (GZIPPED[:HALF], "breaks off"),
    "corrupt": (GZIPPED[:HALF] + b"XXXX" + GZIPPED[HALF + 4 :], "not a sound gzip file|other contents"),
    "a login page": (b"<html>Please log in</html>", "not a sound gzip file"),
    "other contents": (gzip.compress(b"other"), "sha256 expected [0-9a-f]{64}, got [0-9a-f]{64}"),
    "a gzip bomb": (gzip.compress(bytes(len(CONTENT) + 1)), "unpacks to more than"),
    "too long": (bytes(2 * len(CONTENT)), "more than the file can have"),
}


@pytest.mark.parametrize(("body", "words"), BAD.values(), ids=BAD)
def test_wrong_bytes_are_thrown_away_for_the_next_mirror_or_reported(serve, tmp_path, body, words):
    bad = serve(lambda exchange, n: exchange.send(body))
    good = serve(lambda exchange, n: exchange.send(GZIPPED))
    with pytest.raises(UserError, match=words) as caught:
        get(tmp_path, bad.url)
    assert not isinstance(caught.value, Unreachable)
    assert bad.url in caught.value.message
    assert left_over(tmp_path) == set()
    assert get(tmp_path, bad.url, good.url).read_bytes() == GZIPPED


def test_a_body_without_end_is_cut_off(serve, tmp_path):
    def endless(exchange, n):
        exchange.send_response(200)
        exchange.end_headers()
        with contextlib.suppress(OSError):
            while True:
                exchange.wfile.write(bytes(1 << 16))

    with pytest.raises(UserError, match="sends more than"):
        get(tmp_path, serve(endless).url)


def test_an_end_that_was_not_announced_is_doubted_once(serve, tmp_path):
    def answer(exchange, n):
        exchange.send_response(200)
        exchange.end_headers()
        exchange.wfile.write(GZIPPED[:HALF] if n == 1 else GZIPPED)

    assert get(tmp_path, serve(answer).url).read_bytes() == GZIPPED


def test_a_file_with_the_digest_of_the_gz_alone_is_not_taken_from_a_mirror_that_repacked_it(serve, tmp_path):
    file = replace(FILE, content_sha256="", gzip_sha256=hashlib.sha256(GZIPPED).hexdigest())
    repacked = serve(lambda exchange, n: exchange.send(REPACKED))
    original = serve(lambda exchange, n: exchange.send(GZIPPED))
    with pytest.raises(UserError, match="Only the digest of the compressed file is known"):
        get(tmp_path, repacked.url, file=file)
    assert get(tmp_path, repacked.url, original.url, file=file).read_bytes() == GZIPPED


def test_a_file_without_a_digest_is_not_published():
    with pytest.raises(ValueError, match="no digest"):
        replace(FILE, content_sha256="")


def test_nothing_that_answers_is_reported_with_every_mirror_and_a_remedy(tmp_path):
    mirrors = ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b")
    with pytest.raises(Unreachable) as caught:
        get(tmp_path, *mirrors)
    for mirror in mirrors:
        assert f"{mirror}/toy.gz: Connection refused" in caught.value.message
    assert "TORCHMILL_MIRROR" in caught.value.remedy


def test_a_file_that_all_refuse_is_not_called_unreachable(serve, tmp_path):
    with pytest.raises(UserError, match="No mirror has") as caught:
        get(tmp_path, serve(lambda exchange, n: exchange.fail(404)).url)
    assert not isinstance(caught.value, Unreachable)


def test_a_server_that_falls_silent_is_given_up(serve, tmp_path):
    released = threading.Event()
    server = serve(lambda exchange, n: released.wait(10))
    try:
        with pytest.raises(Unreachable, match="no answer in time"):
            get(tmp_path, server.url, open_url=functools.partial(open_url, read_seconds=0.05))
    finally:
        released.set()
    assert len(server.requests) == 4


class Dribble:
    """An answer that gives a byte a second."""

    def __init__(self, answer, clock: Clock):
        self.answer, self.clock = answer, clock

    def __getattr__(self, name: str):
        return getattr(self.answer, name)

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self.answer.close()

    def read1(self, _: int) -> bytes:
        self.clock.now += 1
        return self.answer.read(1)


def test_a_mirror_that_dribbles_is_given_up_for_the_next_one(serve, tmp_path):
    clock = Clock()
    slow, quick = serve(lambda exchange, n: exchange.send(GZIPPED)), serve(lambda exchange, n: exchange.send(GZIPPED))

    def open_either(request):
        answer = open_url(request)
        return Dribble(answer, clock) if slow.url in request.full_url else answer

    assert get(tmp_path, slow.url, quick.url, clock=clock, open_url=open_either).read_bytes() == GZIPPED
    assert clock.now < 60 and len(slow.requests) == 1
    (tmp_path / "alone").mkdir()
    with pytest.raises(Unreachable, match=r"sent \d+ bytes in 31 s"):
        get(tmp_path / "alone", slow.url, clock=clock, open_url=open_either)


def test_mirrors_of_ones_own_come_first_in_their_order(serve, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine" / "toy").mkdir(parents=True)
    (tmp_path / "mine" / "toy" / "toy.gz").write_bytes(REPACKED)
    public = serve(lambda exchange, n: exchange.send(GZIPPED))
    monkeypatch.setenv(MIRROR_VARIABLE, f"file://{tmp_path}/empty, file://{tmp_path}/mine")
    assert get(tmp_path / "cache", public.url).read_bytes() == REPACKED
    assert not public.requests


def test_a_server_of_ones_own_is_asked_below_the_data_sets_name(serve, tmp_path, monkeypatch):
    server = serve(lambda exchange, n: exchange.send(GZIPPED))
    monkeypatch.setenv(MIRROR_VARIABLE, server.url.replace("/toy/", "/data"))
    get(tmp_path)
    assert server.requests[0].path == "/data/toy/toy.gz"


@pytest.mark.parametrize("setting", ["/folder", "ftp://host", "file://folder/x", "http://", "http://host:port", "x"])
def test_a_malformed_mirror_is_an_error_of_configuration(setting):
    with pytest.raises(ConfigError, match="TORCHMILL_MIRROR is not the address of a mirror"):
        own_mirrors(f"https://good.example, {setting}")


def test_a_password_is_sent_to_the_mirror_alone(serve, tmp_path, monkeypatch):
    target = serve(lambda exchange, n: exchange.fail(404))
    server = serve(lambda exchange, n: exchange.fail(302, Location=f"{target.url}moved"))
    monkeypatch.setenv(MIRROR_VARIABLE, server.url.replace("//", "//me:s3cret@").replace("/toy/", ""))
    with pytest.raises(UserError) as caught:
        get(tmp_path)
    assert server.requests[0].headers["Authorization"] == "Basic bWU6czNjcmV0"
    assert target.requests[0].headers["Authorization"] is None
    assert "s3cret" not in str(caught.value)


def test_a_full_disk_is_explained_and_the_part_is_kept(serve, tmp_path):
    server = serve(lambda exchange, n: exchange.send(GZIPPED))

    class Full(io.FileIO):
        def write(self, chunk):
            if self.tell() > HALF:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(chunk)

    def open_file(path, mode):
        return Full(path, mode) if path.suffix == ".part" else path.open(mode)

    with pytest.raises(UserError, match=r"Cannot write .*: No space left on device, about 0\.3 MB more") as caught:
        get(tmp_path, server.url, open_file=open_file)
    assert str(tmp_path) in caught.value.message
    assert "TORCHMILL_DATA" in caught.value.remedy
    assert (tmp_path / "toy.gz.part").stat().st_size > HALF
    assert get(tmp_path, server.url).read_bytes() == GZIPPED
    assert server.requests[1].headers["Range"]


def test_a_place_that_cannot_be_written_to_is_explained(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(UserError, match=r"Cannot write .*taken") as caught:
        get(tmp_path / "taken" / "toy")
    assert "TORCHMILL_DATA" in caught.value.remedy


CHILD = """
import sys; from pathlib import Path
from torchmill.components.data.downloads.download import download; from tests.components.data.toy_server import FILE
download(FILE, Path(sys.argv[1]) / "toy.gz", [sys.argv[2]])
"""


def in_another_process(folder: Path, mirror: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), mirror], env=dict(os.environ))


def wait_until(true, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def test_two_processes_at_once_download_once(serve, tmp_path):
    asked = threading.Event()

    def slow(exchange, n):
        asked.set()
        time.sleep(1.0)
        exchange.send(GZIPPED)

    server = serve(slow)
    children = [in_another_process(tmp_path, server.url) for _ in range(2)]
    assert [child.wait(30) for child in children] == [0, 0]
    assert len(server.requests) == 1
    assert left_over(tmp_path) == {"toy.gz"}


def test_a_killed_process_leaves_its_part_and_no_lock(serve, tmp_path):
    released = threading.Event()

    def stall(exchange, n):
        exchange.send(GZIPPED, cut=HALF if n == 1 else None)
        if n == 1:
            exchange.wfile.flush()
            released.wait(30)  # the body is announced as longer, so the client waits

    server = serve(stall)
    child = in_another_process(tmp_path, server.url)
    part = tmp_path / "toy.gz.part"
    wait_until(lambda: part.exists() and part.stat().st_size > HALF - 20_000)
    child.send_signal(signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    released.set()
    held = part.stat().st_size
    assert not (tmp_path / "toy.gz").exists()
    assert get(tmp_path, server.url).read_bytes() == GZIPPED
    assert server.requests[1].headers["Range"] == f"bytes={held}-"


def test_pythons_own_server_will_do_as_a_mirror(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "toy.gz").write_bytes(GZIPPED)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        assert get(tmp_path / "cache", f"http://127.0.0.1:{server.server_port}").read_bytes() == GZIPPED
        server.shutdown()


def test_a_log_gets_one_line_and_a_terminal_a_bar(caplog):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    with caplog.at_level(logging.INFO, "torchmill"):
        with shown("toy/toy.gz", terminal) as report:
            report(500_000, 1_000_000, "here")
        assert not caplog.messages
        with shown("toy/toy.gz", io.StringIO()) as report:
            report(500_000, 1_000_000, "http://here")
            report(1_000_000, 1_000_000, "http://here")
    assert "toy/toy.gz" in terminal.getvalue()
    assert caplog.messages == ["Downloaded toy/toy.gz, 1.00 MB in 0.0 s, from http://here"]
