"""A contest is decided by test samples that neither model was trained on, though data grew or a split moved."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.onnx_files import linear
from torchmill.components.data.content import trained_digests
from torchmill.components.data.fetch import fetch
from torchmill.components.evaluation.comparison.champion import compare_with_champion
from torchmill.components.evaluation.comparison.noninferiority import Verdict
from torchmill.components.evaluation.config import PromoteConfig
from torchmill.components.files import write_array
from torchmill.components.refs import DataRef, ExportRef, FileRef
from torchmill.components.runs.reproduction import RecordedRun
from torchmill.components.tracking.champions import ModelVersion
from torchmill.components.tracking.model_requests import Standing
from torchmill.flows import promotion, recorded

FEATURES = 780
LABELS = ("0", "1")

OWN = f"""
import numpy as np

def data():
    rng = np.random.default_rng(SEED)
    inputs = rng.normal(size=(COUNT, {FEATURES})).astype(np.float32)
    labels = (inputs[:, :10].sum(1) + 2 * rng.normal(size=COUNT) > 0).astype(int)
    return RETURNED
"""

MOVING = """{"train": (inputs[order[200:]], labels[order[200:]]), "test": (inputs[order[:200]], labels[order[:200]])}"""


def grown(folder: Path, count: int, seed: int, returned: str = "inputs, labels") -> DataRef:
    """Data of a function that returns more samples than before: the first ones are the same."""
    file = folder / "own.py"
    # One generator for inputs and one for noise, so that more rows change no earlier one.
    code = OWN.replace("rng.normal(size=COUNT)", "np.random.default_rng(SEED + 10_000).normal(size=COUNT)")
    file.write_text(code.replace("RETURNED", returned).replace("SEED", str(seed)).replace("COUNT", str(count)))
    return fetch(f"{file}:data", folder / "cache")


def array(data: DataRef, name: str) -> np.ndarray:
    return np.load(data.folder / f"{name}.npy")


def fitted(path: Path, data: DataRef, ridge: float) -> Path:
    """A linear classifier of the training samples; without a ridge, it learns their noise by heart."""
    inputs, labels = array(data, "train_inputs").astype(np.float64), np.eye(2)[array(data, "train_labels")] - 0.5
    weights = np.linalg.solve(inputs.T @ inputs + ridge * np.eye(FEATURES), inputs.T @ labels)
    return linear(path, weights, takes="features", sizes=(FEATURES,), labels=LABELS)


def right(path: Path, inputs: np.ndarray, labels: np.ndarray) -> float:
    import onnxruntime

    answers = onnxruntime.InferenceSession(path).run(None, {"features": inputs})[0]
    return float((np.asarray(answers).argmax(1) == labels).mean())


class Contest:
    """A champion that learned noise by heart, and a challenger that is truly better, on data that has grown."""

    def __init__(self, folder: Path, seed: int, *returned: str):
        before = grown(folder, 1000, seed, *returned[:1])
        self.trained_on, self.former_sha256 = trained_digests(before), before.sha256
        self.champion = fitted(folder / "champion.onnx", before, 1e-3)
        self.data = grown(folder, 1010, seed, *returned[1:])
        self.challenger = fitted(folder / "challenger.onnx", self.data, 1000)

    def verdict(self, trained_on: np.ndarray | None) -> Verdict:
        return compare_with_champion(self.challenger, self.champion, self.data, PromoteConfig(), trained_on=trained_on)


@pytest.mark.parametrize(("contests", "least", "apart"), [pytest.param(12, 9, 3, marks=pytest.mark.slow), (4, 3, 1)])
def test_ten_more_rows_leave_the_better_challenger_its_chance(tmp_path, contests: int, least: int, apart: int):
    won, fresh, left_out = 0, 0, []
    for seed in range(contests):
        contest = Contest(tmp_path, seed)
        verdict = contest.verdict(contest.trained_on)
        assert verdict.comparison
        left_out.append(verdict.comparison.left_out)
        won += verdict.outcome == "promoted"
        # The same models on as many samples that nobody has seen.
        unseen = grown(tmp_path, 1000, seed + 5000)
        fresh += (
            compare_with_champion(contest.challenger, contest.champion, unseen, PromoteConfig()).outcome == "promoted"
        )
    assert max(left_out) <= 2  # of 200
    assert fresh >= least and abs(won - fresh) <= apart


def test_samples_of_a_split_that_moved_are_left_out(tmp_path):
    splits = (MOVING.replace("order", f"np.random.default_rng({seed}).permutation(COUNT)") for seed in (0, 1))
    contest = Contest(tmp_path, 1, *splits)
    fooled = contest.verdict(None)
    assert fooled.outcome == "kept" and fooled.comparison
    assert fooled.comparison.champion_score > fooled.comparison.challenger_score
    verdict = contest.verdict(contest.trained_on)
    assert verdict.comparison
    left_out, samples = verdict.comparison.left_out, verdict.comparison.samples
    assert left_out > 140 and left_out + samples == 200
    assert verdict.comparison.champion_score < 0.65 < 0.85 < fooled.comparison.champion_score
    assert f"{left_out} of 200 test samples were left out: the champion was trained on them" in verdict.reason
    assert verdict.tags()["promotion.left_out"] == str(left_out)


def test_samples_that_the_challenger_was_trained_on_are_left_out_too(tmp_path):
    doubled = '{"train": (inputs[:800], labels[:800]), "test": (inputs[790:], labels[790:])}'
    contest = Contest(tmp_path, 2, doubled, doubled)
    verdict = contest.verdict(contest.trained_on)
    assert verdict.comparison and verdict.comparison.left_out == 10
    assert "10 of 220 test samples were left out: the champion or the challenger was trained on them" in verdict.reason
    alone = contest.verdict(np.empty(0, np.uint64))
    assert "10 of 220 test samples were left out: the challenger was trained on them" in alone.reason


def test_without_any_sample_left_the_champion_stays(tmp_path):
    same = '{"train": (inputs[:800], labels[:800]), "test": (inputs[:200], labels[:200])}'
    contest = Contest(tmp_path, 3, same, same)
    verdict = contest.verdict(contest.trained_on)
    assert verdict.outcome == "kept" and verdict.comparison is None
    assert "200 of 200 test samples were left out" in verdict.reason and "none is left" in verdict.reason


def test_few_samples_left_say_how_many_are_needed(tmp_path):
    nearly = '{"train": (inputs[:800], labels[:800]), "test": (inputs[:900], labels[:900])}'
    contest = Contest(tmp_path, 4, nearly, nearly)
    verdict = contest.verdict(contest.trained_on)
    assert verdict.comparison and verdict.comparison.samples == 100
    assert "800 of 900 test samples were left out" in verdict.reason


@pytest.fixture
def judged(tmp_path):
    contest = Contest(tmp_path, 5)
    parity = tmp_path / "parity.json"
    parity.write_text(json.dumps({"passed": True}))
    onnx, report = FileRef.of(contest.challenger), FileRef.of(parity)
    exported = ExportRef(onnx=onnx, report=report, max_abs_diff=0, agreement=1, example=report)

    def judge(trained_on: Path | None, data_sha256: str = contest.former_sha256) -> Verdict:
        champion = ModelVersion("own", "1", "0123456789abcdef", {"data.sha256": data_sha256})
        standing = Standing(champion, contest.champion, False, trained_on)
        return promotion._judge(standing, "own", "2", PromoteConfig(), exported, contest.data)

    return contest, judge


def test_what_a_champion_was_trained_on_is_read_from_its_run(judged, tmp_path):
    contest, judge = judged
    write_array(tmp_path / "trained_on.npy", contest.trained_on)
    verdict = judge(tmp_path / "trained_on.npy")
    assert verdict.comparison and "trained on other data" in verdict.reason
    strangers = np.arange(800, dtype=np.uint64)
    write_array(tmp_path / "trained_on.npy", strangers)
    assert "none of the 800 samples the champion was trained on" in judge(tmp_path / "trained_on.npy").reason


@pytest.mark.parametrize("content", [None, b"", b"no array", b"\x93NUMPY"])
def test_a_champion_of_an_earlier_version_is_not_compared_silently(judged, tmp_path, content):
    contest, judge = judged
    file = None
    if content is not None:
        file = tmp_path / "trained_on.npy"
        file.write_bytes(content)
    verdict = judge(file)
    assert verdict.outcome == "kept" and verdict.comparison is None
    for words in (
        "nothing says which samples the champion was trained on",
        "config.yaml of its run 0123456789ab",
        "--force",
    ):
        assert words in verdict.reason
    # On the same data, it was trained on the same samples as the challenger.
    same = judge(file, contest.data.sha256)
    assert same.comparison and same.comparison.left_out == 0


def test_a_score_on_training_samples_is_told(tmp_path, caplog):
    doubled = '{"train": (inputs[:800], labels[:800]), "test": (inputs[790:], labels[790:])}'
    data = grown(tmp_path, 1000, 6, doubled)
    run = RecordedRun("id", "calm-lynx", "FINISHED", {"data.sha256": data.sha256}, {}, {})
    with caplog.at_level("WARNING", "torchmill"):
        recorded._warn_of_known_samples(run, data, trained_digests(data))
        assert "calm-lynx was trained on 10 of the 210 test samples: the score flatters" in caplog.messages[-1]
        caplog.clear()
        recorded._warn_of_known_samples(run, data, np.arange(5, dtype=np.uint64))
        recorded._warn_of_known_samples(run, data, None)  # of an earlier version, on the same data
        assert not caplog.messages
        earlier = RecordedRun("id", "calm-lynx", "FINISHED", {"data.sha256": "other"}, {}, {})
        recorded._warn_of_known_samples(earlier, data, None)
        assert "may have been trained on these test samples" in caplog.messages[-1]
