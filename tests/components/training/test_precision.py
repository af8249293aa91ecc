"""Training in 16 bits learns as well as in 32."""

import pytest
import torch

from tests.components.training.small_training import CPU, Plain, Small, make, train
from torchmill.components.data.samples import read_training
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.learning import LabelLearning
from torchmill.components.training.losses import make_loss
from torchmill.components.training.precision import MixedPrecision, resolve_precision
from torchmill.components.training.state import TrainingState


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_learns_as_well_as_in_full_precision_with_weights_that_stay_full(toy, tmp_path, precision):
    networks = {name: make(Small) for name in ("fp32", precision)}
    last = {}
    for name, network in networks.items():
        *_, last[name] = train(network, toy, tmp_path / name, epochs=2, lr=1e-3, precision=name, clip="norm:5")
    assert {weight.dtype for weight in networks[precision].parameters()} == {torch.float32}
    assert last[precision].validation_score > 0.95
    assert last[precision].train_loss == pytest.approx(
        last["fp32"].train_loss, rel=0.25
    )  # the first steps of fp16 are skipped
    assert last[precision].train_loss != last["fp32"].train_loss


class Seeing(Plain):
    """Records the dtype that it computes in."""

    seen: set

    def forward(self, x):
        hidden = self.hidden(x.flatten(1))
        self.seen.add((self.training, hidden.dtype))
        return self.out(hidden.relu())


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("auto", None)])
def test_training_and_validation_compute_in_what_was_asked_for(toy, tmp_path, precision, dtype):
    network = make(Seeing)
    network.seen = set()
    list(train(network, toy, tmp_path, precision=precision))
    assert network.seen == {(mode, dtype or torch.float32) for mode in (True, False)}


def test_a_step_whose_gradient_overflows_is_left_out_and_the_scale_halved(toy):
    network = make(Plain)
    data = toy
    training, _ = read_training(data.with_split(0.2, seed=0))
    config = TrainConfig(precision="fp16", optimizer="sgd")
    model = StandardizedModel.of(network, data, in_units=False)
    state = TrainingState(model, LabelLearning(make_loss(config, data, training), data.task_object), config, CPU, 10)
    batch = training.take(torch.arange(32))
    before = [weight.clone() for weight in network.parameters()]
    state.precision.scaler.load_state_dict(state.precision.scaler.state_dict() | {"scale": 1e12})
    state.update(state.step(batch), 32)
    assert all(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))
    assert state.precision.scaler.get_scale() == pytest.approx(5e11)
    state.precision.scaler.load_state_dict(state.precision.scaler.state_dict() | {"scale": 1024.0})
    state.update(state.step(batch), 32)
    assert not any(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))


def test_auto_is_full_precision_on_the_processor():
    assert resolve_precision("auto", CPU) == "fp32"
    assert MixedPrecision("auto", CPU).dtype is torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16"])
def test_it_learns_on_a_card(toy, tmp_path, precision):
    *_, last = train(make(Small), toy, tmp_path, epochs=3, precision=precision, device=torch.device("cuda"))
    assert last.validation_score > 0.95
