"""Server processes: free ports, health, an end with their parent."""

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from torchmill.components.errors import UserError


def answers(url: str, seconds: float = 2.0, anything: bool = False) -> bool:
    """Tell whether an HTTP GET of ``url`` succeeds, or that anything answers; proxies are not asked for our own."""
    proxies = urllib.request.ProxyHandler({} if "//127.0.0.1:" in url else None)
    opener = urllib.request.build_opener(proxies)
    try:
        with opener.open(url, timeout=seconds) as response:
            return 200 <= response.status < 300
    except urllib.error.HTTPError:
        return anything
    except OSError:
        return False


def free_port(wanted: int = 0) -> int:
    """Give a port of 127.0.0.1 that is free: ``wanted``, or any where that is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError("There is no free port on 127.0.0.1.")


def dies_with_parent(number: int = signal.SIGTERM) -> None:
    """In a child: have Linux end it by a signal when its parent dies, however that dies."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def last_line(log: Path) -> str:
    """Give the end of a server's log, which mostly says why it ended."""
    return "".join(log.read_text(errors="replace").strip().splitlines()[-1:])


def is_running(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """Ask a process that we started to end, and end it if it doesn't."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
