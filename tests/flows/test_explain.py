"""The same command again does only what changed, and says why."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import Place, made_quick, make_used_place

pytestmark = pytest.mark.services

NET = '''
"""A network in two files."""
import torch
from layers import head


class Net(torch.nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.MaxPool2d(4), torch.nn.Flatten(), head(num_classes))

    def forward(self, images):
        return self.layers(images)
'''
LAYERS = """
from torch import nn


def head(classes):
    return nn.Linear(49, classes)
"""
STEPS = ["fetch", "inspect", "initialize", "check", "fit", "evaluate", "export", "register", "promote"]
SETTINGS = ("--model", "net.py:Net", "--train.epochs", "1", "--explain")


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, data: Path, databases: Path, prefect_api: str, prewarm: str
) -> Iterator[Place]:
    place = made_quick(make_used_place(tmp_path_factory.mktemp("explain"), data, databases), prefect_api, prewarm)
    (place.folder / "net.py").write_text(NET)
    (place.folder / "layers.py").write_text(LAYERS)
    assert set(states(explained(place)).values()) == {"ran"}
    yield place
    place.wait_until_quiet()


def explained(place: Place, *more: str, **options: object) -> dict[str, str]:
    """What --explain says of each step."""
    done = place.torchmill("train", *SETTINGS, *more, **options)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"(\w+): ((?:ran|cached|resumed), .*)", done.stderr)
    assert [name for name, _ in steps] == STEPS
    return dict(steps)


def states(steps: dict[str, str]) -> dict[str, str]:
    return {name: said.partition(",")[0] for name, said in steps.items()}


def test_nothing_is_done_again_where_nothing_changed_and_no_run_is_added(place: Place):
    before = place.mlflow("SELECT count(*) FROM runs")
    (place.folder / "net.py").write_text(NET.replace("A network in two files", "Two files") + "# a comment\n")
    assert set(states(explained(place)).values()) == {"cached"}
    assert place.mlflow("SELECT count(*) FROM runs") == before


def test_a_cached_result_is_told_without_importing_torch_prefect_or_mlflow(place: Place):
    code = f"""
import os, sys
from torchmill.flows.cli import main as cli
os.environ["OMP_DISPLAY_ENV"] = "false"  # so that it runs by itself
try:
    cli.run({["train", *SETTINGS]!r})
finally:
    print(sorted({{"torch", "prefect", "mlflow"}} & set(sys.modules)), file=sys.stderr)
"""
    done = place.python(code)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]"


def test_a_hyper_parameter(place: Place):
    said = explained(place, "--train.lr", "0.002")
    assert said["fetch"].startswith("cached") and said["initialize"].startswith("cached")
    assert said["fit"] == "ran, train.lr 0.001 → 0.002"
    assert said["evaluate"].startswith("ran, the trained weights changed")


def test_a_setting_of_a_late_step_leaves_the_early_ones_alone_and_the_new_run_has_their_record(place: Place):
    said = explained(place, "--export.tolerance", "0.0001")
    assert states(said) | {"export": "", "register": ""} == {
        "promote": "ran",
        **dict.fromkeys(("fetch", "inspect", "initialize", "check", "fit", "evaluate"), "cached"),
        "export": "",
        "register": "",
    }
    assert said["export"] == "ran, export.tolerance 1e-05 → 0.0001"
    ((run_id,),) = place.mlflow("SELECT run_uuid FROM runs ORDER BY start_time DESC LIMIT 1")
    metrics = dict(place.mlflow(f"SELECT key, count(*) FROM metrics WHERE run_uuid = '{run_id}' GROUP BY key"))
    assert metrics["train/loss"] == 1 and metrics["test/accuracy"] == 1 and "time/fit_seconds" not in metrics
    assert place.mlflow(f"SELECT value FROM tags WHERE run_uuid = '{run_id}' AND key = 'weights.sha256'")
    (artifacts,) = place.runs.glob(f"artifacts/*/{run_id}/artifacts")
    assert (artifacts / "weights" / "best.safetensors").exists() and (artifacts / "pictures" / "curves.png").exists()


@pytest.mark.slow
def test_the_seed(place: Place):
    said = explained(place, "--seed", "5")
    assert said["initialize"] == "ran, seed 0 → 5"
    assert said["fit"] == "ran, seed 0 → 5"


@pytest.mark.parametrize(
    ("file", "source", "changed", "what"),
    [
        pytest.param(
            *("net.py", NET, NET.replace("return self.layers(images)", "return 2 * self.layers(images)"), "class Net"),
            marks=pytest.mark.slow,
        ),
        ("layers.py", LAYERS, LAYERS.replace("(49, classes)", "(49, classes, bias=False)"), "def head"),
    ],
    ids=["its_own", "a_module_that_it_imports"],
)
def test_the_source_of_the_network(place: Place, file: str, source: str, changed: str, what: str):
    (place.folder / file).write_text(changed)
    try:
        said = explained(place)
    finally:
        (place.folder / file).write_text(source)
    assert said["initialize"] == said["fit"] == f"ran, {file} changed: {what}"


@pytest.mark.slow
def test_the_version_of_torch(place: Place):
    """Python takes the first distribution that it finds for what is installed."""
    info = place.folder / "site" / "torch-99.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 99.0\n")
    said = explained(place, env={"PYTHONPATH": str(info.parent)})
    assert said["fetch"].startswith("cached")
    assert re.fullmatch(r"ran, torch [\d.+a-z]+ → 99\.0", said["fit"])


@pytest.mark.slow
def test_the_data(place: Place, tmp_path: Path):
    """Other pixels under the same name, as a data set has that was published anew."""
    other = tmp_path / "data"
    shutil.copytree(place.environment["TORCHMILL_DATA"], other)
    manifest = other / "digits" / "manifest.json"
    images = np.load(other / "digits" / "train_inputs.npy")
    images[0] = 255 - images[0]
    np.save(other / "digits" / "train_inputs.npy", images)
    told = json.loads(manifest.read_text())
    digest = hashlib.sha256((other / "digits" / "train_inputs.npy").read_bytes()).hexdigest()
    told["files"]["train_inputs.npy"] = digest
    told["data"]["sha256"] = hashlib.sha256("".join(told["files"].values()).encode()).hexdigest()
    manifest.write_text(json.dumps(told))
    original = Path(place.environment["TORCHMILL_DATA"])
    original.rename(tmp_path / "original")
    try:
        said = explained(place, env={"TORCHMILL_DATA": str(other)})
    finally:
        (tmp_path / "original").rename(original)
    assert said["fetch"] == "ran, a file of its result is gone or changed"
    assert re.fullmatch(r"ran, the data \(digits\) changed: \w{8}… → \w{8}…", said["fit"])


@pytest.mark.slow
def test_a_result_whose_file_is_gone_is_made_again(place: Place):
    done = place.torchmill("train", *SETTINGS, "--json")
    Path(json.loads(done.stdout)["weights"]["path"]).unlink()
    said = explained(place)
    assert said["fit"] == "resumed, epoch 2, step 0"  # of its last checkpoint nothing is left to train
    assert states(said)["initialize"] == states(said)["evaluate"] == "cached"


@pytest.mark.slow
def test_fresh_begins_anew_and_overwrites_nothing(place: Place):
    def content() -> dict[Path, bytes]:
        kept = ("best.safetensors", "initial.safetensors", "model.onnx", "report.md", "result.json", "journal.jsonl")
        return {path: path.read_bytes() for name in kept for path in place.runs.glob(f"work/*/{name}")}

    before = content()
    assert set(explained(place, "--fresh").values()) == {"ran, a fresh start"}
    after = content()
    assert len(after) > len(before) and {path: after[path] for path in before} == before
