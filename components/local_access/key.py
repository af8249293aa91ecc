"""The key to the servers of a folder of runs: random, in a file that its owner or the folder's group alone may read."""

import os
import re
import secrets
import stat
from pathlib import Path

from torchmill.components.errors import UserError
from torchmill.components.files import locked
from torchmill.components.runs.folders import Runs, is_shared
from torchmill.components.state_files import set_aside

USER = "torchmill"
BYTES = 24
MAX_CHARACTERS = 1000
REMEDY = "Remove it: a new one is made. Those who are signed in have to sign in again."


def credentials(runs: Runs) -> str:
    """Return ``torchmill:KEY``, for HTTP's basic authentication (RFC 7617); the first call makes the key.

    Raises:
        UserError: somebody else owns or may read the file.
    """
    file, is_groups = runs.work / "key", is_shared(runs.folder)
    with locked(runs.work / "key.lock"):
        key = _read(file, is_groups) or _write(file, is_groups)
    return f"{USER}:{key}"


def signed_in(address: str, credentials: str) -> str:
    """Return an address that signs a browser in when it is opened.

    Example:
        >>> signed_in("http://127.0.0.1:5000", "torchmill:secret")
        'http://torchmill:secret@127.0.0.1:5000'
    """
    scheme, _, place = address.partition("://")
    return f"{scheme}://{credentials}@{place}"


def _read(file: Path, is_groups: bool) -> str:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    except OSError as error:  # a link, which somebody else may have made
        raise UserError(f"Cannot read the key of this folder's servers, {file}: {error.strerror}.", REMEDY) from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        set_aside(file, "it is not a file")
        return ""
    with os.fdopen(handle, encoding="ascii", errors="replace") as opened:
        strangers = 0o007 if is_groups else 0o077
        if stat.S_IMODE(status.st_mode) & strangers or not (is_groups or status.st_uid == os.geteuid()):
            raise UserError(f"Others own or may read the key of this folder's servers, {file}.", REMEDY)
        text = opened.read(MAX_CHARACTERS)
    if text and not re.fullmatch(r"[A-Za-z0-9_-]{32}", text.strip()):
        set_aside(file, "it holds no key")
        return ""
    return text.strip()


def _write(file: Path, is_groups: bool) -> str:
    key = secrets.token_urlsafe(BYTES)
    file.unlink(missing_ok=True)  # an empty one: its writer was killed
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as opened:
        if is_groups:
            os.fchown(handle, -1, file.parent.stat().st_gid)
            os.fchmod(handle, 0o640)
        opened.write(key)
    return key
