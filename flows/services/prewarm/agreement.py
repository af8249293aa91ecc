"""Checks of a command and the prewarmed process on each other, before anything is handed over."""

import hashlib
import json
import os
import socket
import struct
from typing import Any

ANSWER_SECONDS = 2.0
"""Time in which the other side has to answer; a command then runs by itself."""
DIGEST_BYTES = 64
AGREED, READY, GO = b"agreed\n", b"ready\n", b"go\n"
"""Answers: to the digest of the start conditions; to the whole order; and the command's last word before it starts."""


def is_own_user(connection: socket.socket) -> bool:
    """Return True if the process at the other end of a Unix socket is this process's user's (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return user == os.geteuid()


def digest(conditions: dict[str, Any]) -> bytes:
    """Return a digest of start conditions, which holds none of the environment's values."""
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest().encode()
