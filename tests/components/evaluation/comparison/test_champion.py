"""Two ONNX files over one test split."""

from pathlib import Path

import numpy as np
import pytest

from tests.onnx_files import bag_of_letters, linear
from tests.toy import toy_data, toy_numbers, toy_tokens
from torchmill.components.data.fetch import COLUMNS
from torchmill.components.data.samples import read_test
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.evaluation.comparison.champion import compare_with_champion
from torchmill.components.evaluation.config import PromoteConfig
from torchmill.components.refs import DataRef

CONFIG = PromoteConfig(margin=0.02)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> DataRef:
    return toy_data(tmp_path_factory.mktemp("bars"), classes=4, size=8, test=1500)


def bar_reader(path: Path, data: DataRef, wrong: float = 0.0, **more) -> Path:
    """A model that adds up the pixels of each bar; a share of noise in its weights makes it err."""
    size, classes = data.shape[1], len(data.classes)
    weights = np.zeros((size, size, classes))
    for number in range(classes):
        weights[number * size // classes : (number + 1) * size // classes, :, number] = 1
    noise = np.random.default_rng(0).normal(size=weights.shape)
    labels = more.pop("labels", data.classes)
    return linear(path, (weights + wrong * noise).reshape(-1, classes), sizes=data.shape, labels=labels, **more)


def test_the_better_one_wins_and_the_worse_one_does_not(bars: DataRef, tmp_path: Path):
    good, worse = bar_reader(tmp_path / "good.onnx", bars), bar_reader(tmp_path / "worse.onnx", bars, 2.0)
    won = compare_with_champion(good, worse, bars, CONFIG)
    assert won.outcome == "promoted" and won.comparison and won.comparison.samples == 1500
    assert won.comparison.n01 and won.comparison.challenger_score == 1
    lost = compare_with_champion(worse, good, bars, CONFIG)
    assert lost.outcome == "kept" and lost.comparison and lost.comparison.n10 == won.comparison.n01
    assert compare_with_champion(good, good, bars, CONFIG).outcome == "promoted"
    assert compare_with_champion(good, good, bars, CONFIG, {"parity": False}).outcome == "kept"


def test_a_champion_that_does_not_fit_is_told_and_left(bars: DataRef, tmp_path: Path):
    ours = bar_reader(tmp_path / "ours.onnx", bars)
    others = {
        "has other classes": (bar_reader(tmp_path / "a.onnx", bars, labels=["a", "b", "c", "d"]), "knows 4"),
        "has another size": (
            linear(tmp_path / "b.onnx", np.ones((9, 4)), sizes=(1, 3, 3), labels=bars.classes),
            "1×3×3",
        ),
        "is of numbers": (
            linear(tmp_path / "c.onnx", np.ones((3, 4)), takes="features", sizes=(3,), labels=bars.classes),
            "numbers",
        ),
    }
    for champion, words in others.values():
        verdict = compare_with_champion(ours, champion, bars, CONFIG)
        assert verdict.outcome == "kept" and words in verdict.reason and not verdict.comparison
        assert "cannot be compared" in verdict.reason


def test_a_champion_of_a_table_gets_its_own_columns(tmp_path: Path):
    data = toy_numbers(tmp_path, features=3, test=600)
    (data.folder / COLUMNS).write_text(Columns((Column("size"), Column("color", ("blue", "red")))).as_json())
    inputs, labels = (held.numpy() for held in (read_test(data).inputs, read_test(data).labels))
    weights = np.linalg.lstsq(inputs, np.eye(3)[labels] - 1 / 3, rcond=None)[0]
    more = {"takes": "features", "labels": data.classes}

    def model(name: str, *columns: Column, order: list[int]) -> Path:
        held = Columns(columns).as_json()
        return linear(tmp_path / name, weights[order], sizes=(len(order),), columns=held, **more)

    size, colors = Column("size"), Column("color", ("blue", "red"))
    ours = model("ours.onnx", size, colors, order=[0, 1, 2])
    moved = model("moved.onnx", Column("color", ("red", "blue")), size, order=[2, 1, 0])
    verdict = compare_with_champion(ours, moved, data, CONFIG)
    assert verdict.comparison and verdict.comparison.champion_score == verdict.comparison.challenger_score
    fewer = compare_with_champion(ours, model("fewer.onnx", Column("color", ("red",)), order=[2]), data, CONFIG)
    assert fewer.comparison and fewer.comparison.champion_score < fewer.comparison.challenger_score
    for champion, words in (
        (model("a.onnx", size, Column("color", ("blue", "green", "red")), order=[0, 1, 1, 2]), "color = green"),
        (model("b.onnx", size, Column("colour", ("blue", "red")), order=[0, 1, 2]), "no column 'colour'"),
        (model("c.onnx", size, Column("color"), order=[0, 1]), "holds numbers here, and names there"),
    ):
        verdict = compare_with_champion(ours, champion, data, CONFIG)
        assert verdict.outcome == "kept" and words in verdict.reason and "cannot be compared" in verdict.reason


def test_a_champion_of_texts_gets_its_own_tokens(tmp_path: Path):
    data = toy_tokens(tmp_path, test=300)  # of the letters a to e; most of them decide
    labels = data.classes
    cut = {"lower_case": False}
    ours = bag_of_letters(tmp_path / "ours.onnx", "abcde", np.eye(5)[:, :3], labels, **cut)
    moved = bag_of_letters(tmp_path / "moved.onnx", "cba", np.eye(3)[::-1], labels, **cut)
    for verdict in (compare_with_champion(ours, moved, data, CONFIG), compare_with_champion(ours, ours, data, CONFIG)):
        assert verdict.comparison and verdict.comparison.n01 == verdict.comparison.n10 == 0
        assert verdict.comparison.champion_score > 0.9
    more = bag_of_letters(tmp_path / "more.onnx", "abcdefgh", np.eye(8)[:, :3], labels, **cut)
    longer = bag_of_letters(tmp_path / "long.onnx", "abc", np.eye(3), labels, longest=13, **cut)
    for champion, words in (
        (more, "knows more tokens than the data set: 3 (f, g, h)"),
        (bag_of_letters(tmp_path / "lower.onnx", "abc", np.eye(3), labels), "cuts texts into characters in lower case"),
        (longer, "reads 13 tokens of a text, of which the data set keeps 12"),
    ):
        verdict = compare_with_champion(ours, champion, data, CONFIG)
        assert verdict.outcome == "kept" and words in verdict.reason


def test_a_regression_is_judged_by_explained_variance(tmp_path: Path):
    data = toy_numbers(tmp_path, task="regression", outputs=2, test=800)
    inputs, targets = (held.numpy() for held in (read_test(data).inputs, read_test(data).labels))
    # The toy's targets are linear but for a constant, which a feature of great mean gives nearly.
    weights = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    more = {"takes": "features", "gives": "values", "sizes": (6,), "labels": data.classes}
    good = linear(tmp_path / "good.onnx", weights, **more)
    worse = linear(tmp_path / "worse.onnx", 0.7 * weights, **more)
    assert compare_with_champion(good, worse, data, CONFIG).outcome == "promoted"
    lost = compare_with_champion(worse, good, data, CONFIG)
    assert lost.outcome == "kept" and lost.comparison and lost.comparison.p_value < 0.01
