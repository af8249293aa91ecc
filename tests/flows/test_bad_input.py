"""What a user gets wrong is told in words, with the remedy and a non-zero exit code; nothing is damaged."""

import json
import resource
import socket
from pathlib import Path

import pytest

from tests.flows.conftest import Place

pytestmark = pytest.mark.services


def complaint(place: Place, *arguments: str, code: int, env: dict[str, str] | None = None) -> str:
    """Run, and give what it complains of."""
    done = place.torchmill(*arguments, env=env or {})
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1] if code != 2 else len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["'trian'", "train"]),
        (["train", "--trian.epochs", "3"], ["--trian.epochs", "--train.epochs"]),
        (["train", "--train.epoch", "3"], ["--train.epoch", "--train.epochs"]),
        (["train", "--data", "mnits"], ["'mnits'", "mnist"]),
        (["train", "--data", "csv:typo.csv"], ["There is no", "typo.csv"]),
        (["train", "--data", "image_folder:nowhere/cats"], ["There is no", "nowhere/cats"]),
        (["train", "--model", "simplecnn"], ["'simplecnn'", "simple_cnn", "file.py:Class"]),
        (["train", "--train.optimizer", "adma"], ["'adma'", "adam"]),
        (["train", "--initialize", "xavier"], ["'xavier'", "xavier_normal"]),
        (["train", "--train.epochs", "-3"], ["train.epochs", "-3"]),
        (["train", "--device", "cudda"], ["'cudda'", "cuda"]),
        (["train", "--config", "nowhere.yaml"], ["nowhere.yaml", "--config"]),
        (["train", "--train.epochs"], ["--train.epochs", "argument"]),
        (["schedule"], ["--cron"]),
        (["train", "--model", "net.py:Net"], ["net.py"]),
    ],
)
def test_a_typing_error_is_told_in_one_line_before_anything_is_done(
    place: Place, arguments: list[str], words: list[str]
):
    told = complaint(place, *arguments, code=2)
    assert all(word in told for word in words), told
    assert not place.runs.exists()


def test_runs_that_cannot_be_written(place: Place):
    place.runs.write_text("a file, where a folder should be")
    assert "--runs" in complaint(place, "train", code=1)
    assert place.runs.read_text() == "a file, where a folder should be"


@pytest.mark.parametrize("rubbish", [b"no database " * 1000, b"", None])
def test_a_damaged_mlflow_database_is_told_at_once_and_left_as_it_is(place: Place, rubbish: bytes | None, request):
    place.runs.mkdir()
    database = place.runs / "mlflow.db"
    if rubbish is None:  # a real one with a hole in it
        from torchmill.components.runs.folders import Runs
        from torchmill.components.tracking.database import create_database

        create_database(Runs(place.runs).ready())
        whole = bytearray(database.read_bytes())
        whole[4096:12288] = bytes(8192)
        rubbish = bytes(whole)
    database.write_bytes(rubbish)
    for command in ("train", "up"):
        told = complaint(place, command, code=1)
        assert "mlflow.db is damaged" in told and "Move" in told
        assert database.read_bytes() == rubbish


def test_a_port_in_use(place: Place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = complaint(place, "up", "--mlflow-port", port, code=1)
    assert port in told and "--mlflow-port" in told


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_ends_the_run_failed_until_there_is_room(shared: Place):
    """By a limit on the size of files: the databases fit, the weights of a large network don't."""
    (shared.folder / "large.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, 5000), nn.ReLU(), nn.Linear(5000, num_classes))\n"
    )
    limit = 12_000_000
    command = ("train", "--model", "large.py:Net", "--train.epochs", "1")
    done = shared.torchmill(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "initial.safetensors" in done.stderr and "too large" in done.stderr
    assert shared.states() == ["FAILED"]
    told = "SELECT value FROM tags WHERE key = 'error'"
    assert "initial.safetensors" in shared.mlflow(told)[0][0]
    assert not list(shared.runs.glob("work/*/*.safetensors*")) and not list(shared.runs.glob("work/*/.*"))
    assert shared.torchmill(*command).returncode == 0  # there is room again
    assert shared.states() == ["FINISHED"] and not shared.mlflow(told)


TWO_FACED = """
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first, self.second = torch.nn.Linear(784, 32), torch.nn.Linear(32, num_classes)

    def forward(self, images):
        hidden = self.first(images.flatten(1)).relu()
        if torch.onnx.is_in_onnx_export():
            hidden = hidden * 1.1
        return self.second(hidden)
"""


@pytest.mark.slow
def test_an_export_that_differs_ends_the_run_failed_and_its_page_says_at_which_layer(shared: Place):
    (shared.folder / "two_faced.py").write_text(TWO_FACED)
    told = complaint(shared, "train", "--model", "two_faced.py:Net", "--train.epochs", "1", code=1)
    assert "differs from the network" in told and "second" in told
    assert shared.states() == ["FAILED"] and shared.mlflow("SELECT count(*) FROM model_versions") == [(0,)]
    (page,) = shared.runs.glob("artifacts/*/*/artifacts/report.html")
    text = page.read_text()
    assert "no ONNX model is published" in text and "<b>The run failed.</b>" in text and "They part" in text
    assert "Scores on the test split" in text


@pytest.mark.slow
def test_what_only_shows_in_the_run_ends_it_failed(place: Place, datasets: Path):
    """One after the other in one folder: each ends FAILED, and none disturbs the next."""
    (place.folder / "broken.py").write_text("import no_such_module_anywhere\n\nclass Net: ...\n")
    (place.folder / "narrow.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(784, 7))\n"
    )
    told = complaint(place, "train", "--model", "broken.py:Net", code=1)
    assert "broken.py" in told and "line 1" in told and "no_such_module_anywhere" in told
    told = complaint(place, "train", "--model", "narrow.py:Net", code=1)
    assert "(2, 7)" in told and "(2, 10)" in told

    # A file that was cut short on the mirror, and one with other contents.
    mirror = place.folder / "mirror" / "mnist"
    mirror.mkdir(parents=True)
    for file in (datasets / "mnist").iterdir():
        (mirror / file.name).write_bytes(file.read_bytes())
    labels = mirror / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-1000])
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes((mirror / "train-images-idx3-ubyte.gz").read_bytes())
    told = complaint(place, "train", "--data", "mnist", code=1, env={"TORCHMILL_MIRROR": mirror.parent.as_uri()})
    assert "train-labels-idx1-ubyte.gz" in told and "TORCHMILL_MIRROR" in told

    done = place.torchmill("train", "--json", "--device", "cuda:7")
    assert done.returncode == 1 and "cuda:7" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "FAILED"
    assert place.states() == ["FAILED"] * 3  # the last one never began
    assert place.mlflow("SELECT count(*) FROM model_versions") == [(0,)]
