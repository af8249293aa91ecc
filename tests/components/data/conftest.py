import threading
from collections.abc import Callable, Iterator

import pytest

from tests.components.data.toy_server import Exchange, Server


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Exchange, int], None]], Server]]:
    """Start a server that answers its n-th request by ``answer(exchange, n)``, n from 1."""
    servers = []

    def start(answer: Callable[[Exchange, int], None]) -> Server:
        server = Server(answer)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_mirror_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have some of their own."""
    monkeypatch.delenv("TORCHMILL_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
