"""A user's own repository, with folders and files that are named like ours and like libraries, trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.conftest import Place, Quick

BLOCKS = "from torch import nn\n\n\ndef head(features, classes):\n    return nn.Linear(features, classes)\n"
NETWORK = """
from torch import nn

from IMPORTED import head


class Small(nn.Module):
    def __init__(self, num_classes, in_channels, image_size):
        super().__init__()
        self.head = head(in_channels * image_size**2, num_classes)

    def forward(self, images):
        return self.head(images.flatten(1))
"""


def write_repository(folder: Path) -> None:
    """Write a Prefect project with flows of its own, a package in src, and files that nobody is to import."""
    files = {
        "flows/__init__.py": "",
        "flows/train.py": "raise SystemExit('the flow of the user was imported')\n",
        "components/blocks.py": BLOCKS,  # a package without __init__.py
        "net.py": NETWORK.replace("IMPORTED", "components.blocks"),
        "src/acme/__init__.py": "",
        "src/acme/layers.py": BLOCKS,
        "src/acme/nets.py": NETWORK.replace("IMPORTED", "acme.layers"),
    }
    for name in ("uvicorn", "select", "mlflow", "prefect", "torch"):
        files[f"{name}.py"] = (
            f"open({str(folder / 'imported')!r}, 'a').write('{name}\\n')\nraise SystemExit('{name}')\n"
        )
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


IN_A_FILE, IN_A_PACKAGE = "net.py:Small", "acme.nets:Small"


@pytest.mark.services
@pytest.mark.parametrize("reference", [pytest.param(IN_A_FILE, marks=pytest.mark.slow), IN_A_PACKAGE])
def test_it_trains_and_no_file_is_taken_for_a_library(used: Place, reference: str):
    write_repository(used.folder)
    done = used.torchmill("train", "--json", "--model", reference, "--train.epochs", "2")
    assert done.returncode == 0, done.stderr
    assert not (used.folder / "imported").exists(), (used.folder / "imported").read_text()
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "FINISHED"
    used.wait_until_quiet()
    assert used.states() == ["FINISHED"] and used.prefect("SELECT state_name FROM flow_run") == [("Completed",)]


@pytest.mark.services
@pytest.mark.parametrize("reference", [IN_A_FILE, pytest.param(IN_A_PACKAGE, marks=pytest.mark.slow)])
def test_beside_torchmill_up_it_trains_likewise(shared: Place, reference: str):
    write_repository(shared.folder)
    done = shared.torchmill("train", "--json", "--model", reference, "--train.epochs", "2")
    assert done.returncode == 0, done.stderr
    assert not (shared.folder / "imported").exists(), (shared.folder / "imported").read_text()


def test_a_module_that_is_nowhere_is_told_with_the_places_that_were_looked_in(tmp_path: Path):
    write_repository(tmp_path)
    command = [sys.executable, "-m", "torchmill", "train", "--model", "acme.nests:Small"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "no module 'acme.nests'" in done.stderr and "src" in done.stderr
    assert not (tmp_path / "imported").exists()


def test_torchmill_is_all_that_is_imported_by_name(tmp_path: Path):
    code = (
        "import torchmill\nfrom torchmill import RunConfig, UserError\n"
        "assert RunConfig().data.name == 'digits' and issubclass(UserError, Exception)\n"
        "import importlib.util, sys\n"
        "print(*(importlib.util.find_spec(name) is None for name in ('flows', 'components')), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True True False\n", "")


DATA = """
import numpy as np


def load():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    images = rng.integers(0, 90, (300, 1, 8, 8))
    images[np.arange(300), 0, labels] += 120
    return images.astype(np.uint8), labels
"""


@pytest.mark.services
@pytest.mark.parametrize("reference", ["work/net.py:Small", pytest.param("acme:Small", marks=pytest.mark.slow)])
def test_a_run_is_scored_and_reproduced_where_its_source_is_not(shared: Place, quick: Quick, reference: str):
    """Its model's metadata named the path of the source, and its configuration was checked against the folder."""
    source = shared.folder / ("work/net.py" if reference.startswith("work") else "acme/__init__.py")
    source.parent.mkdir()
    source.write_text(NETWORK.replace("IMPORTED", "blocks" if reference.startswith("work") else "acme.blocks"))
    (source.parent / "blocks.py").write_text(BLOCKS)
    (source.parent / "digits.py").write_text(DATA)
    settings = ("--model", reference, "--data", f"{source.parent.name}/digits.py:load", "--train.epochs", "1")
    done = shared.torchmill("train", "--json", "--name", "own", "--check.level", "off", *settings)
    assert done.returncode == 0, done.stderr

    source.parent.rename(shared.folder / "moved away")
    elsewhere = Place(shared.folder / "elsewhere", shared.environment)
    elsewhere.folder.mkdir()
    scored = elsewhere.torchmill("evaluate", "own", "--json")
    assert scored.returncode == 0, scored.stderr
    again = elsewhere.torchmill("reproduce", "own", "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    model = json.loads(done.stdout.splitlines()[-1])["onnx"]
    promoted = elsewhere.torchmill("promote", model["model"], model["version"])
    assert promoted.returncode == 0, promoted.stderr
    shared.wait_until_quiet()
