"""One whole run on the embedded data, looked at from all sides."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import Finished, Place, ask

pytestmark = pytest.mark.services

STEPS = ["fetch", "inspect", "initialize", "check", "fit", "evaluate", "export", "register", "promote"]


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_result_is_one_json_object_on_stdout_and_the_log_goes_to_stderr(finished: Finished):
    assert finished.process.stdout.count("\n") == 1
    assert "epoch 3/3" in finished.process.stderr
    result = finished.result
    assert result["status"] == "FINISHED"
    assert list(result["steps"]) == STEPS
    assert all(step["state"] == "ran" and step["seconds"] >= 0 for step in result["steps"].values())
    assert 0.85 < result["metrics"]["test_accuracy_low"] < result["metrics"]["test_accuracy"] < 1
    assert result["metrics"]["test_accuracy"] < result["metrics"]["test_accuracy_high"] <= 1
    for file in (result["weights"], result["onnx"]):
        assert digest(file["path"]) == file["sha256"]
    assert result["onnx"]["agreement"] == 1
    assert 0 < result["onnx"]["max_abs_diff"] < 1e-4
    assert "Test accuracy" in Path(result["report"]).read_text()


def test_mlflow_has_the_run_as_it_was(finished: Finished):
    place, run_id = finished.place, finished.result["run_id"]
    assert place.mlflow("SELECT run_uuid, name, status FROM runs") == [(run_id, "first one", "FINISHED")]
    params = dict(place.mlflow("SELECT key, value FROM params"))
    assert params["train.epochs"] == "3" and params["data.name"] == "digits" and params["seed"] == "0"
    assert params["parameters"] == "421642" and params["device.used"] and float(params["lr.used"]) == 0.001
    steps = place.mlflow(
        "SELECT key, step FROM metrics WHERE key LIKE '%loss' AND key != 'test/loss' ORDER BY key, step"
    )
    assert steps == [(key, step) for key in ("train/loss", "validation/loss") for step in (1, 2, 3)]
    latest = dict(place.mlflow("SELECT key, value FROM latest_metrics"))
    for name in ("test_accuracy", "test_accuracy_low", "test_accuracy_high"):
        assert latest[name.replace("_", "/", 1)] == finished.result["metrics"][name]
    tags = dict(place.mlflow("SELECT key, value FROM tags"))
    assert len(tags["data.sha256"]) == 64 and tags["version.torch"] and "first one" in tags["mlflow.note.content"]
    about = dict(place.mlflow("SELECT key, value FROM experiment_tags"))
    view = json.loads(about["mlflow.sharedViewState.torchmill"])
    assert {"metrics.`test/accuracy`", "params.`lr.used`"} <= {*view["selectedColumns"]}
    assert view["compareRunCharts"][0]["metricKey"] == "test/accuracy" and "torchmill" in about["mlflow.note.content"]
    names = {name for (name,) in place.mlflow("SELECT key FROM latest_metrics UNION SELECT key FROM params")}
    assert {column.partition("`")[2].rstrip("`") for column in view["selectedColumns"]} <= names
    (dataset,) = place.mlflow("SELECT name, digest FROM datasets")
    assert dataset == ("digits", tags["data.sha256"][:32])


def test_the_artifacts_are_there(finished: Finished):
    (folder,) = (finished.place.runs / "artifacts" / "digits").glob(finished.result["run_id"])
    files = {str(path.relative_to(folder / "artifacts")) for path in folder.rglob("*") if path.is_file()}
    assert files >= {
        *("weights/initial.safetensors", "weights/best.safetensors", "onnx/model.onnx", "onnx/example.npz"),
        *("pictures/curves.png", "pictures/confusion.png", "evaluation.json", "parity.json", "report.md"),
        *("pictures/calibration.png", "pictures/saliency.png", "predictions.npz", "report.html"),
    }
    assert digest(folder / "artifacts/onnx/model.onnx") == finished.result["onnx"]["sha256"]
    assert digest(folder / "artifacts/weights/best.safetensors") == finished.result["weights"]["sha256"]


def test_the_model_is_registered_with_signature_and_example(finished: Finished):
    versions = finished.place.mlflow("SELECT name, version, run_id, source FROM model_versions")
    ((name, version, run_id, _),) = versions
    assert (name, version, run_id) == ("digits-simple_cnn", 1, finished.result["run_id"])
    (model,) = (finished.place.runs / "artifacts" / "digits" / "models").glob("*/artifacts")
    described = (model / "MLmodel").read_text()
    assert '"pixels"' in described and "[-1, -1, -1, -1]" in described and "uint8" in described
    assert (model / "input_example.json").exists()
    assert digest(model / "model.onnx") and not list(model.glob("*.data"))


def test_prefect_has_the_whole_history_although_no_server_was_up(finished: Finished):
    place = finished.place
    assert place.prefect("SELECT name, state_name FROM flow_run") == [("first one", "Completed")]
    tasks = place.prefect("SELECT name, state_name FROM task_run ORDER BY start_time")
    assert tasks == [(step, "Completed") for step in STEPS]
    (log,) = place.prefect("SELECT group_concat(message) FROM log")
    assert "epoch 3/3" in log[0]
    ((report,),) = place.prefect("SELECT data FROM artifact WHERE key = 'train-report'")
    assert finished.result["mlflow_url"] in report


def test_the_runs_of_prefect_and_mlflow_link_to_each_other(finished: Finished):
    ((flow_run_id,),) = finished.place.prefect("SELECT id FROM flow_run")
    tags = dict(finished.place.mlflow("SELECT key, value FROM tags"))
    assert tags["prefect.flow_run"].replace("-", "").endswith(flow_run_id.replace("-", ""))
    assert finished.result["run_id"] in finished.result["mlflow_url"]


def test_the_onnx_file_alone_gives_the_accuracy_that_the_run_says(finished: Finished, data: Path, tmp_path: Path):
    """By a process that has nothing but onnxruntime and numpy."""
    script = """
import sys, json
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images, labels = np.load(sys.argv[2] + "/test_inputs.npy"), np.load(sys.argv[2] + "/test_labels.npy")
answers = session.run(None, {session.get_inputs()[0].name: images})[0].argmax(1)
example = np.load(sys.argv[3])
again = session.run(None, {"pixels": example["pixels"]})[0]
json.dump({"accuracy": float((answers == labels).mean()), "example": float(abs(again - example["logits"]).max()),
           "torch": "torch" in sys.modules,
           "labels": session.get_modelmeta().custom_metadata_map["labels"]}, sys.stdout)
"""
    example = Path(finished.result["onnx"]["path"]).with_name("example.npz")
    command = [sys.executable, "-c", script, finished.result["onnx"]["path"], str(data / "digits"), str(example)]
    seen = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=tmp_path, text=True).stdout)
    assert seen["accuracy"] == finished.result["metrics"]["test_accuracy"]
    assert seen["example"] == 0 and not seen["torch"]
    assert json.loads(seen["labels"]) == [str(digit) for digit in range(10)]


@pytest.mark.slow
def test_a_second_run_begun_anew_gives_the_same_weights_and_model_under_a_new_run_id(copied: Place, finished: Finished):
    process = copied.torchmill("train", "--json", "--train.epochs", "3", "--fresh")
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["run_id"] != finished.result["run_id"]
    assert result["weights"]["sha256"] == finished.result["weights"]["sha256"]
    assert result["onnx"]["sha256"] == finished.result["onnx"]["sha256"]
    assert result["metrics"]["test_accuracy"] == finished.result["metrics"]["test_accuracy"]
    assert result["onnx"]["version"] == "2"


@pytest.mark.slow
def test_a_network_of_ones_own_with_a_module_beside_it_from_another_folder(used: Place):
    place = used
    nets = place.folder / "somewhere else"
    nets.mkdir()
    (nets / "parts.py").write_text(
        "from torch import nn\n\ndef head(width, classes):\n    return nn.Linear(width, classes)\n"
    )
    (nets / "net.py").write_text(
        "from torch import nn\nfrom parts import head\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes, width=16):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, width, 5, stride=4)\n"
        "        self.head = head(width * 36, num_classes)\n"
        "    def forward(self, x):\n"
        "        x = self.conv(x).relu()\n"
        "        return self.head(x.view(x.size(0), -1))\n"  # which channels-last doesn't bear
    )
    run_file = place.folder / "run.yaml"
    run_file.write_text("data: digits\ntrain: {epochs: 2, lr: 0.01}\nmodel:\n  args: {width: 8}\n")
    process = place.torchmill(
        "train", "--json", "--config", "run.yaml", "--model", "somewhere else/net.py:Net", "--train.epochs", "3"
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["metrics"]["test_accuracy"] > 0.8
    assert result["onnx"]["model"] == "digits-Net"
    params = dict(place.mlflow("SELECT key, value FROM params"))
    assert (params["train.epochs"], params["train.lr"], params["model.args"]) == ("3", "0.01", '{"width": 8}')


def test_called_from_python_it_is_as_good_as_from_the_command_line(shared: Place, prefect_api: str):
    script = (
        "from torchmill.components.config import RunConfig\nfrom torchmill.flows.train import train\n"
        "result = train(RunConfig(train={'epochs': 1}, name='from python'))\n"
        "print(result.run_id, result.metrics['test_accuracy'])\n"
    )
    done = shared.python(script)
    assert done.returncode == 0, done.stderr
    run_id, _ = done.stdout.split()
    assert shared.mlflow("SELECT run_uuid, name, status FROM runs") == [(run_id, "from python", "FINISHED")]
    named = {"flow_runs": {"name": {"any_": ["from python"]}}}
    (flow_run,) = json.loads(ask(f"{prefect_api}/flow_runs/filter", named))
    assert flow_run["state_name"] == "Completed"
    tasks = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}
    task_runs = json.loads(ask(f"{prefect_api}/task_runs/filter", tasks))
    assert [task_run["state_name"] for task_run in task_runs] == ["Completed"] * len(STEPS)


@pytest.mark.slow
def test_two_first_runs_at_once_in_an_empty_folder_both_finish(place: Place):
    both = [place.start("train", "--json", "--train.epochs", "1", "--seed", seed) for seed in "12"]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert place.states() == ["FINISHED", "FINISHED"]
    place.wait_until_quiet()
    assert place.prefect("SELECT state_name, count(*) FROM flow_run GROUP BY 1") == [("Completed", 2)]
    tasks = dict(place.prefect("SELECT state_name, count(*) FROM task_run GROUP BY 1"))
    assert sum(tasks.values()) == 2 * len(STEPS)
    assert tasks.get("Cached", 0) == 1 and set(tasks) == {"Completed", "Cached"}  # one fetched for both
    assert sorted(place.mlflow("SELECT version FROM model_versions")) == [(1,), (2,)]


@pytest.mark.slow
def test_two_that_do_the_very_same_at_once_are_one_run(used: Place):
    command = ("train", "--json", "--train.epochs", "40")
    first = used.start(*command)
    assert first.stderr and any("epoch 1/" in line for line in first.stderr)
    second = used.start(*command)
    outputs = [process.communicate(timeout=300) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    ours, theirs = (json.loads(out) for out, _ in outputs)
    assert ours["run_id"] == theirs["run_id"] and used.states() == ["FINISHED"]
    assert "waiting for it" in outputs[1][1] and "nothing changed since" in outputs[1][1]
    used.wait_until_quiet()
    assert used.prefect("SELECT state_name, count(*) FROM flow_run GROUP BY 1") == [("Completed", 2)]


@pytest.mark.slow
def test_mnist_reaches_98_9_percent_in_three_epochs(place: Place, datasets: Path):
    process = place.torchmill(
        "train", "--json", "--data", "mnist", "--train.epochs", "3", env={"TORCHMILL_MIRROR": datasets.as_uri()}
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["metrics"]["test_accuracy"] >= 0.989
    answers = np.load(Path(result["onnx"]["path"]).with_name("example.npz"))
    assert answers["logits"].shape == (8, 10)
