"""Losses are what their papers and torch say, and the parts of a batch add up to it."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.components.training.small_training import Plain, make, train
from torchmill.components import tasks
from torchmill.components.data.samples import Samples, read_training
from torchmill.components.errors import UserError
from torchmill.components.refs import DataRef
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.losses import Objective, loss_name, losses_of, make_loss

CLASSES = 4
COUNTS = (40, 30, 20, 10)
"""Training samples of each class, or with each label, of 100."""


@pytest.fixture
def data(toy) -> DataRef:
    return toy.model_copy(update={"classes": tuple("abcd")})


def of_task(data: DataRef, task: str) -> DataRef:
    return data.model_copy(update={"task": task, "kind": "numbers", "shape": (3,)})


def training(task: str = "classification") -> Samples:
    """Return a split with ``COUNTS`` samples of each class."""
    labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(COUNTS))
    if task != "classification":
        labels = torch.stack([torch.arange(100) < count for count in COUNTS], 1).float()
    return Samples(torch.zeros(100, 3), labels)


def drawn(task: str, samples: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and labels."""
    rng = torch.Generator().manual_seed(0)
    outputs = torch.randn(samples, CLASSES, generator=rng) * 2
    match task:
        case "classification":
            return outputs, torch.randint(0, CLASSES, (samples,), generator=rng)
        case "multilabel":
            return outputs, torch.randint(0, 2, (samples, CLASSES), generator=rng).float()
        case _:
            return outputs, torch.randn(samples, CLASSES, generator=rng) * 2


def made(data: DataRef, task: str = "classification", **config) -> Objective:
    return make_loss(TrainConfig.model_validate(config), of_task(data, task), training(task))


def balanced() -> torch.Tensor:
    return torch.tensor([100 / (CLASSES * count) for count in COUNTS])


def test_auto_is_the_loss_of_the_task(data):
    for task, plain in (
        ("classification", F.cross_entropy),
        ("multilabel", F.binary_cross_entropy_with_logits),
        ("regression", F.mse_loss),
    ):
        outputs, labels = drawn(task)
        got = made(data, task)(outputs, labels)
        torch.testing.assert_close(got, plain(outputs, labels))
        torch.testing.assert_close(got, tasks.task(task).plain_loss(outputs, labels))
        assert got.shape == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_with_smoothed_labels_is_torchs_own(data, smoothing):
    logits, labels = drawn("classification")
    got = made(data, loss_args={"label_smoothing": smoothing})(logits, labels)
    torch.testing.assert_close(got, F.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_given_weights_count_by_class_and_their_mean_over_the_training_samples_is_1(data):
    logits, labels = drawn("classification")
    got = made(data, loss_args={"weight": [1, 2, 3, 4]})(logits, labels)
    mean = sum(count * weight for count, weight in zip(COUNTS, (1, 2, 3, 4), strict=True)) / 100
    each = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(got, (each * (labels + 1) / mean).mean())


def test_balanced_weights_are_inverse_to_the_classes_frequency(data):
    logits, labels = drawn("classification")
    got = made(data, loss_args={"weight": "balanced"})(logits, labels)
    each = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(got, (each * balanced()[labels]).mean())
    assert balanced()[training().labels].mean() == pytest.approx(1)


def test_weights_and_smoothing_go_together(data):
    logits, labels = drawn("classification")
    got = made(data, loss_args={"weight": "balanced", "label_smoothing": 0.2})(logits, labels)
    shares = F.one_hot(labels, CLASSES) * 0.8 + 0.2 / CLASSES
    torch.testing.assert_close(got, -(shares * balanced() * F.log_softmax(logits, 1)).sum(1).mean())


@pytest.mark.parametrize("config", [{}, {"loss_args": {"weight": "balanced"}}, {"loss": "focal"}])
def test_shares_of_one_class_cost_what_the_class_costs(data, config):
    logits, labels = drawn("classification")
    objective = made(data, **config)
    shares = F.one_hot(labels, CLASSES).float()
    torch.testing.assert_close(objective(logits, shares), objective(logits, labels))
    halves = 0.5 * shares + 0.5 * shares.roll(1, 1)
    mixed = (objective(logits, labels) + objective(logits, (labels + 1) % CLASSES)) / 2
    torch.testing.assert_close(objective(logits, halves), mixed)


def test_the_focal_loss_is_that_of_its_paper(data):
    logits, labels = drawn("classification")
    right = logits.softmax(1)[torch.arange(len(labels)), labels]
    for arguments, gamma in (({}, 2.0), ({"gamma": 0.5}, 0.5), ({"gamma": 0}, 0.0)):
        got = made(data, loss="focal", loss_args=arguments)(logits, labels)
        torch.testing.assert_close(got, (-((1 - right) ** gamma) * right.log()).mean())
    got = made(data, loss="focal", loss_args={"weight": "balanced"})(logits, labels)
    torch.testing.assert_close(got, (-((1 - right) ** 2) * right.log() * balanced()[labels]).mean())


def test_the_binary_focal_loss_is_that_of_its_paper(data):
    logits, labels = drawn("multilabel")
    right = torch.where(labels > 0, logits.sigmoid(), 1 - logits.sigmoid())
    got = made(data, "multilabel", loss="focal", loss_args={"gamma": 3})(logits, labels)
    torch.testing.assert_close(got, (-((1 - right) ** 3) * right.log()).mean())
    plain = made(data, "multilabel", loss="focal", loss_args={"gamma": 0})(logits, labels)
    torch.testing.assert_close(plain, F.binary_cross_entropy_with_logits(logits, labels))


def test_labels_that_are_rare_count_by_how_much_more_often_they_are_missing(data):
    logits, labels = drawn("multilabel")
    rarity = torch.tensor([(100 - count) / count for count in COUNTS])
    for asked, weight in (("balanced", rarity), ([1, 2, 3, 4], torch.tensor([1.0, 2, 3, 4]))):
        got = made(data, "multilabel", loss_args={"weight": asked})(logits, labels)
        torch.testing.assert_close(got, F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight))


def test_smoothed_labels_are_between_yes_and_no(data):
    logits, labels = drawn("multilabel")
    got = made(data, "multilabel", loss_args={"label_smoothing": 0.2})(logits, labels)
    torch.testing.assert_close(got, F.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1))


def test_huber_is_squared_near_zero_and_linear_beyond(data):
    objective = made(data, "regression", loss="huber", loss_args={"delta": 0.5})
    for error, expected in ((0.2, 0.5 * 0.2**2), (3.0, 0.5 * (3 - 0.25))):
        got = objective(torch.full((2, CLASSES), error), torch.zeros(2, CLASSES))
        assert got.item() == pytest.approx(expected)


EVERY = [(name, loss) for name in tasks.names() for loss in losses_of(name)]
ARGUMENTS = {
    "cross_entropy": {"weight": "balanced", "label_smoothing": 0.1},
    "focal": {"weight": "balanced"},
    "bce": {"weight": "balanced", "label_smoothing": 0.1},
}


@pytest.mark.parametrize(("task", "loss"), EVERY)
@pytest.mark.parametrize("parts", [2, 5])
def test_the_gradients_of_parts_of_a_batch_add_up_to_that_of_the_whole(data, task, loss, parts):
    objective = made(data, task, loss=loss, loss_args=ARGUMENTS.get(loss, {}))
    outputs, labels = drawn(task)
    whole = outputs.clone().requires_grad_()
    objective(whole, labels).backward()
    pieces = outputs.clone().requires_grad_()
    for some, theirs in zip(pieces.tensor_split(parts), labels.tensor_split(parts), strict=True):
        (objective(some, theirs) * (len(theirs) / len(labels))).backward()
    torch.testing.assert_close(pieces.grad, whole.grad)


@pytest.mark.parametrize(("task", "loss"), EVERY)
def test_a_loss_is_finite_and_has_a_finite_gradient_where_outputs_are_large(data, task, loss):
    outputs, labels = drawn(task)
    for factor in (0, 50):
        large = (outputs * factor).requires_grad_()
        value = made(data, task, loss=loss)(large, labels)
        value.backward()
        assert value.isfinite() and value >= 0 and large.grad.isfinite().all()


def test_auxiliary_outputs_count_by_their_weight(data):
    logits, labels = drawn("classification")
    other = logits.flip(0)
    main, side = F.cross_entropy(logits, labels), F.cross_entropy(other, labels)
    torch.testing.assert_close(made(data)((logits, other), labels), main + 0.3 * side)
    torch.testing.assert_close(made(data)([logits, None, other, other], labels), main + 0.6 * side)
    torch.testing.assert_close(made(data, auxiliary_weight=0)((logits, other), labels), main)


@pytest.mark.parametrize(
    ("task", "loss"),
    [("classification", "bce"), ("classification", "mse"), ("multilabel", "cross_entropy"), ("regression", "focal")],
)
def test_a_loss_of_another_task_is_refused_with_those_that_fit(data, task, loss):
    with pytest.raises(UserError, match=rf"--train.loss {loss} is not for {task}, which toy is.*{losses_of(task)[0]}"):
        loss_name(TrainConfig(loss=loss), of_task(data, task))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"loss_args": {"label_smothing": 0.1}},
            "takes no argument 'label_smothing'. Did you mean label_smoothing?",
        ),
        ({"loss_args": {"label_smoothing": 2}}, "label_smoothing is 2, not a number from 0 to 1"),
        ({"loss_args": {"label_smoothing": True}}, "label_smoothing is True, not a number"),
        ({"loss_args": {"weight": [1, 2]}}, "weight: 2 numbers for the 4 classes of toy"),
        ({"loss_args": {"weight": "even"}}, 'weight: give a number for each class, or "balanced"'),
        ({"loss_args": {"weight": [1, 2, 3, -1]}}, "weight: give a number for each class"),
        ({"loss_args": {"weight": [1, 2, 3, "4"]}}, "weight: give a number for each class"),
        ({"loss_args": {"weight": [0, 0, 0, 0]}}, "weight: it is 0 for all classes"),
        ({"loss": "focal", "loss_args": {"gamma": -1}}, "gamma is -1, not a number from 0 to 100"),
        ({"loss": "focal", "loss_args": {"delta": 1}}, "focal takes no argument 'delta'"),
    ],
)
def test_arguments_that_are_wrong_are_told_in_words(data, config, words):
    with pytest.raises(UserError) as raised:
        made(data, **config)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_mse_takes_no_argument(data):
    with pytest.raises(UserError, match=r"--train.loss_args: mse takes no argument 'weight'\. It takes none\."):
        made(data, "regression", loss_args={"weight": "balanced"})


OWN = """
class Own(nn.Module):
    def __init__(self, power=1.0):
        super().__init__()
        self.power = power
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, outputs, labels):
        return self.scale * nn.functional.cross_entropy(outputs, labels) ** self.power

def function(outputs, labels, power=1.0):
    return nn.functional.cross_entropy(outputs, labels) ** power

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        raise RuntimeError("not today")

def many(outputs, labels):
    return outputs

def number(outputs, labels):
    return 3.0

def fails(outputs, labels):
    return outputs @ labels

def one(outputs, labels):
    return outputs.square().mean().reshape(1, 1)
"""


def test_a_loss_of_ones_own_is_a_class_or_a_function_from_a_file(data, own):
    logits, labels = drawn("classification")
    plain = F.cross_entropy(logits, labels)
    objective = made(data, loss=own(OWN), loss_args={"power": 2})
    torch.testing.assert_close(objective(logits, labels), 2 * plain**2)
    assert "scale" in " ".join(name for name, _ in objective.named_buffers())  # so that it goes to the device with it
    torch.testing.assert_close(made(data, loss=own(OWN, "function"), loss_args={"power": 3})(logits, labels), plain**3)
    assert made(data, loss=own(OWN, "one"))(logits, labels).shape == ()
    assert made(data, "regression", loss=own(OWN, "one"))(*drawn("regression")) > 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Broken", "Broken() fails: RuntimeError: not today (own_network.py line 20)"),
        ("many", "many gives (12, 4); expected one number. Take the mean"),
        ("number", "number gives float; expected one number"),
        ("fails", "fails fails on outputs (12, 4) and labels (12,): RuntimeError"),
    ],
)
def test_a_loss_of_ones_own_that_fails_is_told_in_words(data, own, name, words):
    with pytest.raises(UserError) as raised:
        made(data, loss=own(OWN, name))(*drawn("classification"))
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_arguments_that_ones_own_loss_does_not_take_are_told(data, own):
    for name in ("Own", "function"):
        with pytest.raises(UserError, match="strength"):
            made(data, loss=own(OWN, name), loss_args={"strength": 2})(*drawn("classification"))


def test_a_score_is_the_sum_over_samples_of_what_the_task_is_judged_by():
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 2]])
    assert tasks.task("classification").score_sum(logits, torch.tensor([0, 1])) == 1
    assert tasks.task("classification").score_sum(logits, torch.tensor([[0.6, 0.4, 0], [0.0, 0.3, 0.7]])) == 2
    yes = torch.tensor([[1.0, 1, 0], [0.0, 0, 0]])
    assert tasks.task("multilabel").score_sum(logits - 0.5, yes).item() == pytest.approx(3 / 3 + 1 / 3)
    targets = torch.tensor([[2.0, 1, 0], [0, 0, 0]])
    assert tasks.task("regression").score_sum(logits, targets).item() == pytest.approx(1 + 1 - 5 / 3)


def test_the_loss_that_is_asked_for_is_the_one_that_is_trained_with(toy, tmp_path):
    splits = read_training(toy.with_split(0.2, seed=0))
    (plain,) = train(make(Plain), toy, tmp_path / "plain", splits=splits, lr=1e-9)
    (smooth,) = train(make(Plain), toy, tmp_path / "smooth", splits=splits, lr=1e-9, loss_args={"label_smoothing": 1.0})
    assert plain.train_score == smooth.train_score and not math.isclose(plain.train_loss, smooth.train_loss)
