"""Whole runs print and do the same as the README and docs/ show."""

import json
import re
import shutil

import pytest

from tests.docs_pages import DOCS, NEEDS_A_RUN, run_snippet, scripts, write_files
from tests.flows.conftest import Finished, Place
from tests.test_readme import BLOCKS, snippets

pytestmark = pytest.mark.services


def without_numbers(line: str) -> str:
    return re.sub(r"[\d.,]+(e-\d+)?|[0-9a-f]{12}…", "N", line)


def test_its_output_is_what_a_run_prints(finished: Finished):
    (block,) = (text for _, text in BLOCKS if text.startswith("$ make run"))
    quoted = [line for line in block.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    printed = {without_numbers(line) for line in finished.process.stderr.splitlines()}
    assert len(quoted) >= 6
    assert not [line for line in quoted[1:] if without_numbers(line) not in printed], sorted(printed)


def test_its_network_trains_and_its_python_runs(shared: Place):
    network, script = snippets("python")
    (shared.folder / "net.py").write_text(network)
    words = ("--data", "digits", "--model", "net.py:Net", "--model.args.width", "48", "--train.epochs", "1")
    done = shared.torchmill("train", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "FINISHED"
    done = shared.python(script.replace("mnist", "digits").replace('"epochs": 3', '"epochs": 1'))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"0\.\d+ /.*\.onnx\n", done.stdout)


def test_snippets_of_pages_that_need_a_run_give_what_they_say(shared: Place):
    folder = shared.folder
    resume, deploy, _, registry = (DOCS / name for name in NEEDS_A_RUN)
    (script,) = scripts(resume)
    assert "'fit': 'ran'" in run_snippet(script.text, folder, shared.environment)

    (model,) = shared.runs.glob("work/*/model.onnx")
    for name in ("model.onnx", "example.npz"):
        shutil.copy(model.with_name(name), folder)
    write_files(deploy, folder)
    assert "'7'" in run_snippet((folder / "serve.py").read_text(), folder, shared.environment)
    assert float(run_snippet((folder / "replay.py").read_text(), folder, shared.environment)) < 1e-4

    (script,) = scripts(registry)
    assert "digits-simple_cnn version 1 ('champion',)" in run_snippet(script.text, folder, shared.environment)
