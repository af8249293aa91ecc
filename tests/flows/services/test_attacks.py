"""Attacks on the servers of `torchmill up`, by a web page in the user's browser and by another user of the machine."""

import contextlib
import http.server
import json
import threading
import urllib.error
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.browser import TEXT, browser
from tests.flows.conftest import ask, make_used_place, without_key
from tests.flows.services.test_up import Up
from torchmill.flows.services.processes import free_port

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, data: Path, databases: Path) -> Iterator[Up]:
    place = make_used_place(tmp_path_factory.mktemp("attacked"), data, databases)
    # Ports of its own: another `up`, which begins at the same time, takes the usual ones.
    up = Up(place, "--no-prewarm", "--mlflow-port", str(free_port()), "--prefect-port", str(free_port()))
    yield up
    up.end()
    place.end()


COMMAND = {"job_variables": {"command": "touch stolen"}}


def status(url: str, body: object = None, **headers: str) -> int:
    """Status of the answer to a request."""
    try:
        ask(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def names_of_flows(up: Up) -> set[str]:
    return {flow["name"] for flow in json.loads(ask(f"{up.address('Prefect')}/api/flows/filter", {}))}


def test_without_the_key_nothing_is_told_or_done(up: Up):
    prefect, _ = without_key(up.address("Prefect"))
    mlflow, _ = without_key(up.address("MLflow"))
    for path, body in (
        ("/api/flows/", {"name": "planted"}),
        ("/api/deployments/", {"name": "planted", **COMMAND}),
        ("/api/flow_runs/filter", {}),
        ("/api/admin/settings", None),
        ("/", None),
    ):
        assert status(prefect + path, body) == 401, path
    for path, body in (
        ("/graphql", {"query": "{ mlflowSearchRuns(input: {experimentIds: []}) { runs { info { runId } } } }"}),
        ("/api/2.0/mlflow/experiments/search?max_results=5", None),
        ("/ajax-api/2.0/mlflow/experiments/search?max_results=5", None),
        ("/get-artifact?path=x&run_uuid=y", None),
        ("/", None),
    ):
        assert status(mlflow + path, body) == 401, path
    assert "planted" not in names_of_flows(up)


@pytest.mark.parametrize("service", ["Prefect", "MLflow"])
def test_with_the_key_no_foreign_host_or_origin_passes(up: Up, service: str):
    address = up.address(service)
    assert status(address) == 200
    assert status(address, Host="evil.example") == 403
    assert status(address, Origin="http://evil.example") == 403
    assert status(address, Sec_Fetch_Site="cross-site") == 403


OWN_SOCKET = """new Promise(done => {
  const socket = new WebSocket(`ws://${location.host}/api/events/out`, "prefect");
  socket.onopen = () => done(true);
  socket.onerror = () => done(false);
})"""
EVIL = """<!doctype html><title>evil</title><iframe src="PREFECT/"></iframe><img src="PREFECT/api/flows/count">
<form id="form" method="post" action="PREFECT/api/flows/" enctype="text/plain" target="frame">
<input name='{"name": "planted by a form", "x": "' value='"}'></form><iframe name="frame"></iframe>
<script>
const told = [];
async function attack(url, options) {
  try { const answer = await fetch(url, options); told.push(answer.type + answer.status + await answer.text()); }
  catch (error) { told.push("refused"); }
}
function socket(url) {
  return new Promise(done => {
    const opened = new WebSocket(url);
    opened.onopen = () => { told.push("socket opened"); done(); };
    opened.onerror = () => { told.push("refused"); done(); };
  });
}
async function main() {
  document.getElementById("form").submit();
  for (const credentials of ["include", "omit"]) {
    await attack("PREFECT/api/flows/", {method: "POST", credentials, body: new Blob(['{"name": "planted"}'])});
    await attack("PREFECT/api/flows/", {method: "POST", mode: "no-cors", credentials, body: '{"name": "planted"}'});
    await attack("PREFECT/api/flows/filter", {method: "POST", credentials, body: "{}",
                 headers: {"Content-Type": "application/json"}});
    await attack("PREFECT/api/admin/settings", {credentials});
    await attack("MLFLOW/graphql", {method: "POST", credentials, body: '{"query": "{ __typename }"}'});
    await attack("MLFLOW/ajax-api/2.0/mlflow/experiments/search?max_results=5", {credentials});
  }
  await socket("PREFECT/api/events/out".replace("http", "ws"));
  return told;
}
</script>"""


@contextlib.contextmanager
def served(page: str) -> Generator[str]:
    """Serve a page on a port of its own; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_page_in_a_browser_that_is_signed_in_gets_nothing(up: Up):
    prefect, mlflow = up.address("Prefect"), up.address("MLflow")
    with browser() as page:
        page.open(f"{prefect}/")
        page.wait_for(f"{TEXT}.includes('Flow')")
        assert page.evaluate(OWN_SOCKET), "the page of flow runs shows no events"
        page.open(f"{mlflow}/")
        page.wait_for(f"{TEXT}.includes('Experiments')")
        # The page's own address has no key: with one, browsers refuse its relative requests.
        assert page.evaluate("fetch('version').then(answer => answer.status)") == 200
        inside = {address: code for address, code in page.statuses.items() if code >= 400 and "/api/" in address}
        assert not inside, "the user's own pages are refused"

        evil = EVIL.replace("PREFECT", without_key(prefect)[0]).replace("MLFLOW", without_key(mlflow)[0])
        with served(evil) as address:
            page.open(address)
            page.wait_for("document.title == 'evil' && typeof main == 'function'")
            told = page.evaluate("main()")
    assert len(told) == 13
    # A request without CORS tells the page nothing but that it was sent.
    assert set(told) <= {"refused", "opaque0"}, told
    assert not {name for name in names_of_flows(up) if "planted" in name}
