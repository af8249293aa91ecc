"""Server processes: free ports, health checks, and an end with their parent."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

from torchmill.components.data.downloads.http import request_for
from torchmill.components.errors import UserError


def answers(url: str, seconds: float = 2.0, anything: bool = False) -> bool:
    """Return True if an HTTP GET succeeds. No proxy is used for addresses on this machine.

    Args:
        anything: count an error response as an answer.
    """
    import http.client
    import urllib.error
    import urllib.request

    proxies = urllib.request.ProxyHandler({} if "//127.0.0.1:" in url else None)
    opener = urllib.request.build_opener(proxies)
    try:
        with opener.open(request_for(url), timeout=seconds) as response:
            return 200 <= response.status < 300
    except urllib.error.HTTPError:
        return anything
    except (OSError, ValueError, http.client.HTTPException):  # nobody there, no address, or no HTTP
        return False


def free_port(preferred: int = 0) -> int:
    """Return a free port of 127.0.0.1: the preferred one, or any other if that is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError("There is no free port on 127.0.0.1.")


def dies_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux to end this process by a signal when its parent dies, even if the parent is killed."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def last_line(log: Path) -> str:
    """Return the last line of a server's log, which mostly says why it ended."""
    return "".join(log.read_text(errors="replace").strip().splitlines()[-1:])


def end(process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """Terminate a child process, and kill it if it doesn't end in time."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
