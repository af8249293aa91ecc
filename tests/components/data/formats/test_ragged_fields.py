"""Fields whose samples have different lengths, also several of different lengths in one sample."""

import numpy as np
import pytest
import torch

from tests.components.tasks.trials import Trial
from torchmill.components.data.formats.user_fields import load_fields
from torchmill.components.errors import UserError

OWN = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def questions(samples=120):
    rng = np.random.default_rng(0)
    question = [rng.integers(1, 9, rng.integers(2, 9)) for _ in range(samples)]
    signal = [rng.normal(5, 2, (rng.integers(3, 20), 3)) for _ in range(samples)]
    target = [row.mean() / 4 + values[:, 0].mean() for row, values in zip(question, signal)]
    return {"question": question, "signal": signal, "target": np.array(target, np.float32)}


def masked_mean(values, mask):
    return (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(9, 8), nn.Linear(3, 8), nn.Linear(16, 1)

    def forward(self, question, question_mask, signal, signal_lengths):
        steps = torch.arange(signal.shape[1], device=signal.device)
        within = (steps < signal_lengths[:, None]).to(signal.dtype)
        parts = [masked_mean(self.embedding(question), question_mask), masked_mean(self.inner(signal), within)]
        return self.head(torch.cat(parts, 1))[:, 0]


class Number:
    main_measure, better = "error", "lower"

    def loss(self, network, batch):
        return F.mse_loss(network(batch), batch["target"])

    def predict(self, network, inputs):
        return {"number": network(inputs)}

    def measure(self, answer, batch):
        return {"error": (answer["number"] - batch["target"]).abs()}
"""


def test_fields_of_different_lengths_are_trained_and_exported(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = tmp_path / "own.py"
    trial = Trial.of(tmp_path, f"{own}:questions", f"{own}:Number", f"{own}:Both")
    names = {field.name: field.lengths for field in trial.data.field_refs if field.ragged}
    assert names == {"question": "lengths", "signal": "signal_lengths"}
    batch = trial.samples().take(torch.arange(5))
    assert (
        batch["question"].shape[1] == batch["lengths"].max()
        and batch["signal"].shape[1] == batch["signal_lengths"].max()
    )
    before = trial.evaluate()["error"]
    trial.train(200)
    assert trial.evaluate()["error"] < before / 3
    ref, answers = trial.export()
    assert answers["number"].shape[0] == 8
    from torchmill.components.onnx_model.session import open_session

    axes = {entry.name: entry.shape for entry in open_session(ref.onnx.path).get_inputs()}
    assert axes["question"] == ["batch", "length"] and axes["signal"] == ["batch", "signal_length", 3]


def test_the_mean_of_ragged_numbers_is_that_of_their_steps():
    rng = np.random.default_rng(0)
    values = [rng.normal((3, -7), (1, 4), (length, 2)) for length in (3, 9, 5, 2)]
    (field, _) = load_fields({"train": {"x": values}, "test": {"x": values}}, "own").fields
    steps = np.concatenate(values)
    np.testing.assert_allclose(field.mean, steps.mean(0), rtol=1e-6)
    np.testing.assert_allclose(field.std, steps.std(0), rtol=1e-6)
    (single, _) = load_fields(
        {"train": {"x": [v[:, 0] for v in values]}, "test": {"x": [v[:, 0] for v in values]}}, "own"
    ).fields
    np.testing.assert_allclose(single.mean, steps[:, :1].mean(0), rtol=1e-6)


def test_a_target_that_nearly_fits_its_input_is_a_mistake():
    x, tags = [[1, 2, 3], [1, 2], [4, 5, 6, 7]], [[0, 1, 0], [1, 0], [0, 0, 1]]
    with pytest.raises(UserError, match="sample 2 has the length 3, and 4 in an earlier field"):
        load_fields({"train": {"x": x, "tags": tags}, "test": {"x": x[:2], "tags": tags[:2]}}, "own")


def test_inputs_may_share_lengths_with_targets_or_not():
    x, y = [[1, 2, 3], [1, 2], [4]], [[5], [6, 7], [8, 9]]
    fields = load_fields({"train": {"a": x, "b": y, "tags": x}, "test": {"a": x, "b": y, "tags": x}}, "own").fields
    assert {field.name: field.lengths for field in fields if field.ragged} == {
        "a": "lengths", "b": "b_lengths", "tags": "lengths"
    }  # fmt: skip
