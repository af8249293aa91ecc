"""A guard in front of a server on this machine: it lets in its owner's programs and pages, and nobody else's.

A web page that the user visits can send requests to 127.0.0.1, also under a name of its own (DNS rebinding). So the
guard checks headers that browsers set and pages can't forge: ``Host``, ``Origin`` and ``Sec-Fetch-Site``
(https://www.w3.org/TR/fetch-metadata). Against other users of the machine it asks for a key.
"""

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CREDENTIALS = "TORCHMILL_CREDENTIALS"
"""Variable in which a server gets its credentials: no other user can read it there, as they could an argument."""
LOCAL_NAMES = {"127.0.0.1", "localhost", "[::1]"}
SIGN_IN = (b"www-authenticate", b'Basic realm="Torchmill", charset="UTF-8"')
SIGNED_IN = "signed-in"
"""Query of the first page's address once the browser has the key."""
NOT_IN_A_FRAME = (b"x-frame-options", b"SAMEORIGIN")


@dataclass(frozen=True)
class Refusal:
    """An answer to a request that may not pass."""

    status: int
    reason: str


class Guard:
    """An ASGI application that passes requests of its owner on to another one.

    Args:
        application: the server's own application.
        credentials: ``user:key``, as HTTP's basic authentication sends them.
        open_paths: paths that may be read without a key: health checks.

    Example:
        >>> application = Guard(application, "torchmill:secret", {"/health"})  # doctest: +SKIP
    """

    def __init__(self, application: Application, credentials: str, open_paths: Collection[str] = ()):
        self.application = application
        self.credentials = credentials
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["type"] == "lifespan" else self.refusal(scope)
        if refusal is None and _opens_first_page(scope):
            location = f"http://{_Headers(scope).one('host')}/?{SIGNED_IN}".encode("latin-1")
            await _answer(send, 302, [(b"location", location), (b"cache-control", b"no-store")])
        elif refusal is None:
            await self.application(scope, receive, _unframed(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.reason})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), *[SIGN_IN] * (refusal.status == 401)]
            await _answer(send, refusal.status, headers, f"{refusal.reason}\n".encode())

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request may not pass, or None."""
        headers = _Headers(scope)
        host, origin = headers.one("host"), headers.one("origin")
        if host is None or _name(host) not in LOCAL_NAMES:
            return Refusal(403, "Ask for this server as 127.0.0.1.")
        is_foreign = headers.has("origin") and origin != f"http://{host}"
        if is_foreign or (headers.has("sec-fetch-site") and not _is_from_here(headers, scope)):
            return Refusal(403, "This server answers no pages of other sites.")
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if (reads and scope["path"] in self.open_paths) or self._has_key(headers.one("authorization")):
            return None
        return Refusal(401, "Sign in with the address that `torchmill up` prints: it has the key.")

    def _has_key(self, authorization: str | None) -> bool:
        scheme, _, encoded = (authorization or "").partition(" ")
        try:
            sent = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(sent, self.credentials.encode())


class _Headers:
    def __init__(self, scope: Scope):
        self.values: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self.values.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def has(self, name: str) -> bool:
        return name in self.values

    def one(self, name: str) -> str | None:
        """Return a header's value; None if it is missing, or sent twice, which is a trick."""
        values = self.values.get(name, [])
        return values[0] if len(values) == 1 else None


def _name(host: str) -> str:
    """Return the name in a Host header, without the port: another port may be forwarded to ours."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isascii() and port.isdecimal() else host).lower()


def _is_from_here(headers: _Headers, scope: Scope) -> bool:
    """Return True for a request of our own page, of an address typed by the user, or of a link that is followed."""
    if headers.one("sec-fetch-site") in ("same-origin", "none"):
        return True
    return _opens_a_page(headers, scope)


def _opens_a_page(headers: _Headers, scope: Scope) -> bool:
    is_document = headers.one("sec-fetch-mode") == "navigate" and headers.one("sec-fetch-dest") == "document"
    return is_document and scope["type"] == "http" and scope["method"] == "GET"


def _opens_first_page(scope: Scope) -> bool:
    """Return True if a browser opens the first page, maybe by an address with the key.

    The page would have the key in its own address, and then browsers refuse its relative requests ("Request cannot be
    constructed from a URL that includes credentials"). So it is sent on to an address without.
    """
    is_first = scope["type"] == "http" and scope["path"] == "/" and not scope.get("query_string")
    return is_first and _opens_a_page(_Headers(scope), scope)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _unframed(send: Send) -> Send:
    """Forbid pages of other sites to show ours in a frame, where clicks could be stolen."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", [])}
            added = [] if NOT_IN_A_FRAME[0] in present else [NOT_IN_A_FRAME]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return wrapped
