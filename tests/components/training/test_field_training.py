"""Trainings over named fields: exact resume, phases, micro-batches, views and augmentation."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.toy_fields import own_data
from torchmill.components.data.field_augmentation import FieldAugmentation
from torchmill.components.data.field_samples import read_fields
from torchmill.components.errors import UserError
from torchmill.components.initialization.build import build
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import Stopped, fit
from torchmill.components.training.memory_format import prepare_model
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.state import TrainingState

CASES = {
    "segmentation": ("scans", "segmentation", "unet", {"width": 4, "depth": 1}, {"augment": ("flip", "rotate:20")}),
    "two inputs": ("pairs", "Distance", "Both", {}, {"ema": 0.9}),
    "ragged": ("ragged", "Tagging", "Tagger", {}, {"clip": "norm:1"}),
    "phases": ("images", "Adversarial", "Gan", {}, {"schedule": "cosine"}),
}
MORE = """
def images():
    return {"image": np.random.default_rng(5).integers(0, 255, (60, 8, 8)).astype(np.uint8)}
"""


def setup_of(folder: Path, case: str, **more: object) -> TrainingSetup:
    function, task, model, arguments, settings = CASES[case]
    data = own_data(folder, function, task, MORE)
    config = TrainConfig(**{"epochs": 2, "batch_size": 8, "lr": 0.01, "checkpoint_seconds": 0, **settings, **more})
    torch.manual_seed(0)
    reference = model if model.islower() else f"{folder}/own.py:{model}"
    network = build(reference, arguments, data)
    splits = read_fields(data, "train"), read_fields(data, "validation")
    return TrainingSetup(network, *splits, data, config, torch.device("cpu"), seed=3)


def train(setup: TrainingSetup, folder: Path, stop: Callable[[], bool] = lambda: False):
    checkpoints = Checkpoints(folder / "checkpoints", 0)
    resumed = checkpoints.newest()
    return list(fit(setup, checkpoints, folder / "best.safetensors", resume_from=resumed, should_stop=stop))


def after(steps: int) -> Callable[[], bool]:
    """Return a function that is True when it was called this many times before."""
    rest = iter(range(steps))
    return lambda: next(rest, None) is None


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_ends_with_the_same_bytes(tmp_path, case):
    history = train(setup_of(tmp_path, case), tmp_path / "whole")
    for steps in (2, 3, 1):
        with pytest.raises(Stopped):
            train(setup_of(tmp_path, case), tmp_path / "parts", after(steps))
    again = train(setup_of(tmp_path, case), tmp_path / "parts")

    def timeless(epochs):
        return [dataclasses.replace(epoch, samples_per_second=0) for epoch in epochs]

    assert timeless(history) == timeless(again)
    whole, parts = (tmp_path / name / "best.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_the_loss_falls_and_its_parts_are_told(tmp_path):
    history = train(setup_of(tmp_path, "two inputs", epochs=8), tmp_path)
    assert history[-1].train_loss < history[0].train_loss and history[0].train_score is None
    assert set(history[0].parts) == {"logistic", "size"}
    assert sum(history[0].parts.values()) == pytest.approx(history[0].train_loss, rel=1e-5)
    assert history[0].metrics()["train_logistic"] == history[0].parts["logistic"]
    assert {"validation_accuracy", "train_loss"} <= history[0].metrics().keys()


def test_each_phase_trains_its_own_parameters_as_often_as_it_says(tmp_path):
    setup = setup_of(tmp_path, "phases")
    state = TrainingState.begin(setup, 20)
    critic, generator = state.phases
    batch = setup.training.take(torch.arange(8))

    def weights():
        return [torch.cat([weight.flatten() for weight in phase.parameters]).clone() for phase in state.phases]

    assert generator.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * critic.optimizer.param_groups[0]["lr"])
    for number, names in enumerate((["critic", "generator"], ["critic"], ["critic", "generator"])):
        assert [phase.name for phase in state.due_phases()] == names
        for phase in state.due_phases():
            before = weights()
            state.update(state.step(batch, phase=phase), 8)
            changed = [not torch.equal(*pair) for pair in zip(before, weights(), strict=True)]
            assert changed == [phase is critic, phase is generator]
        assert state.batch == number + 1
    assert all(weight.requires_grad for weight in setup.network.parameters())


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(tmp_path):
    setup = setup_of(tmp_path, "segmentation", ema=None)
    network = setup.network.double().eval()  # eval: batch norm would differ by parts
    state = TrainingState.begin(dataclasses.replace(setup, network=network), 10)
    state.model.double()
    batch = setup.training.take(torch.arange(8))
    whole = state.step(batch)
    gradients = [weight.grad.clone() for weight in network.parameters()]
    state.micro_batch = 2
    parts = state.step(batch)
    # Each part has another number of counted pixels only if some are ignored: here each picture ignores a column.
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=0)
    for weight, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-7, atol=1e-12)


def test_masks_move_with_their_images(tmp_path):
    setup = setup_of(tmp_path, "segmentation")
    data, batch = setup.data, setup.training.take(torch.arange(20))
    names = ("flip:1", "shift:2", "rotate:30")
    changed = FieldAugmentation(data, 0, names)(batch, 1, 0, torch.arange(20))
    inside = changed["mask"] == 1
    bright = changed["image"].float().mean(1) > 100
    moved = inside & (changed["mask"] != 255)
    assert (bright & moved).sum() / moved.sum() > 0.85  # of the square's pixels; bilinear edges are darker
    assert (changed["mask"] == 255).sum() > (batch["mask"] == 255).sum()  # what comes in is ignored
    again = FieldAugmentation(data, 0, names)(batch, 1, 0, torch.arange(20))
    assert torch.equal(changed["mask"], again["mask"]) and torch.equal(changed["image"], again["image"])
    with pytest.raises(UserError, match="would not move the masks"):
        FieldAugmentation(data, 0, ("trivial",))


def test_views_are_augmented_differently(tmp_path):
    setup = setup_of(tmp_path, "segmentation")
    batch = setup.training.take(torch.arange(6))
    first, second = FieldAugmentation(setup.data, 0, ("shift:3",), views=2)(batch, 1, 0, torch.arange(6)).views
    assert not torch.equal(first["image"], second["image"]) and first.size == 6


VIEWING = """
class Viewing(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.convolution = nn.Conv2d(3, num_classes, 3, padding=1)

    def forward(self, image):
        logits = self.convolution(image)
        return logits.view(len(image), -1).view_as(logits)
"""


@pytest.mark.parametrize(("network", "expected"), [("unet", True), ("Viewing", False)])
def test_images_are_passed_channels_last_to_convolutions_that_bear_it(tmp_path, network, expected):
    data = own_data(tmp_path, "scans", "segmentation", VIEWING)
    made = build(network if network.islower() else f"{tmp_path}/own.py:{network}", {}, data)
    config, cpu = TrainConfig(), torch.device("cpu")
    model = prepare_model(made, config, cpu, data)
    batch = model.prepared(read_fields(data, "train").take(torch.arange(2)))
    assert batch["image"].is_contiguous(memory_format=torch.channels_last) is expected
    assert batch["mask"].is_contiguous() and model.training
    if not expected:
        with pytest.raises(UserError, match="fails on channels-last images"):
            prepare_model(made, TrainConfig(channels_last="on"), cpu, data)
