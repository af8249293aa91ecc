"""Who passes: the owner's programs and pages, and nobody else."""

import asyncio
import base64
from typing import Any

import pytest

from torchmill.components.local_access.guard import Guard

CREDENTIALS = "torchmill:secret"
KEY = f"Basic {base64.b64encode(CREDENTIALS.encode()).decode()}"
HOST = "127.0.0.1:4200"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer as a server does that lets everybody in."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


def answer(
    *headers: tuple[str, str], kind: str = "http", method: str = "GET", path: str = "/api/flows", query: bytes = b""
) -> Any:
    """Send a request through a guard; returns the first message that comes back."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "method": method, "path": path, "query_string": query, "headers": raw}
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(application, CREDENTIALS, {"/health"})(scope, receive, send))
    return sent[0]


OWN_PAGE = [("host", HOST), ("authorization", KEY), ("origin", f"http://{HOST}"), ("sec-fetch-site", "same-origin")]


@pytest.mark.parametrize(
    "headers",
    [
        [("host", HOST), ("authorization", KEY)],
        [("host", "localhost"), ("authorization", KEY.replace("Basic", "basic"))],
        [("host", "LOCALHOST:9999"), ("authorization", KEY)],  # a port that is forwarded to ours
        [("host", "[::1]:4200"), ("authorization", KEY)],
        OWN_PAGE,
        [("host", HOST), ("authorization", KEY), ("sec-fetch-site", "none")],
    ],
    ids=["program", "localhost", "forwarded", "ipv6", "own_page", "typed_address"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_owner_passes(headers, method):
    assert answer(*headers, method=method)["status"] == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("host", "evil.example:4200")],
        [("host", "127.0.0.1.evil.example")],
        [("host", "127.0.0.1:4200@evil.example")],
        [("host", "evil.example"), ("host", HOST)],
        [],
        [("host", HOST), ("origin", "http://evil.example")],
        [("host", HOST), ("origin", "null")],
        [("host", HOST), ("origin", "http://127.0.0.1:5000")],
        [("host", HOST), ("origin", f"https://{HOST}")],
        [("host", HOST), ("origin", f"http://{HOST}"), ("origin", "http://evil.example")],
        [("host", HOST), ("sec-fetch-site", "cross-site")],
        [("host", HOST), ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")],
        [
            ("host", HOST),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe"),
        ],
        [("host", HOST), ("sec-fetch-site", "Same-Origin ")],
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("path", ["/api/flows", "/health"])
def test_a_page_of_another_site_does_not_pass_even_with_the_key(headers, kind, path):
    told = answer(*headers, ("authorization", KEY), kind=kind, path=path)
    if kind == "http":
        assert told["status"] == 403
    else:
        assert (told["type"], told["code"]) == ("websocket.close", 1008)


def test_a_link_to_a_page_may_be_followed_and_a_form_may_not_be_sent():
    link = [("host", HOST), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
    link += [("sec-fetch-dest", "document"), ("authorization", KEY)]
    assert answer(*link)["status"] == 200
    assert answer(*link, method="POST")["status"] == 403
    assert answer(*link, kind="websocket")["type"] == "websocket.close"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        f"Bearer {KEY.split()[1]}",
        f"Basic {base64.b64encode(b'torchmill:wrong').decode()}",
        f"Basic {base64.b64encode(b'torchmill:').decode()}",
        f"Basic {base64.b64encode(b'other:secret').decode()}",
        "Basic \xff\xfe",
    ],
)
def test_without_the_key_nobody_passes(authorization):
    headers = [("host", HOST), *([("authorization", authorization)] if authorization is not None else [])]
    told = answer(*headers)
    assert told["status"] == 401 and dict(told["headers"])[b"www-authenticate"].startswith(b"Basic")
    assert answer(*headers, kind="websocket")["type"] == "websocket.close"
    assert answer(*headers, path="/health")["status"] == 200  # it tells nothing
    assert answer(*headers, path="/health", method="POST")["status"] == 401
    assert answer(*headers, path="/health/../api/flows")["status"] == 401


def test_with_the_key_a_websocket_is_opened():
    assert answer(*OWN_PAGE, kind="websocket") == {"type": "websocket.accept"}


def test_no_other_site_may_show_a_page_in_a_frame():
    assert (b"x-frame-options", b"SAMEORIGIN") in answer(*OWN_PAGE)["headers"]


def test_a_servers_own_start_and_end_pass():
    messages = []

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        messages.append(scope["type"])

    async def nothing(*_: Any) -> Any: ...

    asyncio.run(Guard(lifespan, CREDENTIALS)({"type": "lifespan"}, nothing, nothing))
    assert messages == ["lifespan"]


BROWSER = (("Host", HOST), ("Authorization", KEY), ("Sec-Fetch-Site", "none"))
OPENED = (*BROWSER, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"))


def test_the_first_page_is_sent_on_to_an_address_without_the_key():
    sent = answer(*OPENED, path="/")
    assert sent["status"] == 302 and dict(sent["headers"])[b"location"] == f"http://{HOST}/?signed-in".encode()
    assert answer(*OPENED, path="/", query=b"signed-in")["status"] == 200
    assert answer(*OPENED, path="/dashboard")["status"] == 200
    assert answer(*BROWSER, path="/")["status"] == 200
    assert answer(*OPENED[:1], *OPENED[2:], path="/")["status"] == 401
