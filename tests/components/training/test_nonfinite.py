"""A loss or weights that become infinite or NaN are reported with the step and the layer."""

import math

import pytest
import torch
from torch import nn

from tests.components.training.small_training import STEPS, Plain, Small, make, newest, stop_after, train
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.training.nonfinite import NotFinite, first_not_finite


class Breaking(nn.Module):
    """Returns NaN after ``good`` passes in train mode, for ever or once."""

    def __init__(self, good: int, once: bool = False):
        super().__init__()
        self.good, self.once, self.passes = good, once, 0

    def forward(self, x):
        self.passes += self.training
        breaks = self.passes == self.good + 1 if self.once else self.passes > self.good
        return x * (math.nan if self.training and breaks else 1.0)


class Within(Small):
    def __init__(self, good: int, once: bool = False):
        super().__init__()
        self.breaking = Breaking(good, once)

    def forward(self, x):
        return self.out(self.breaking(self.norm(self.conv(x)).relu().flatten(1)))


class BrokenUpdate(Small):
    """Has a gradient of NaN after ``good`` steps."""

    def __init__(self, good: int):
        super().__init__()
        self.good, self.passes = good, 0

    def forward(self, x):
        logits = super().forward(x)
        if self.training:
            self.passes += 1
            if self.passes == self.good + 1:
                logits.register_hook(lambda gradient: gradient * math.nan)
        return logits


class Dividing(Small):
    """Divides by zero between two layers."""

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().flatten(1)
        return self.out(x / (x - x))


class DividingLast(Small):
    def forward(self, x):
        return super().forward(x) / 0.0


class Loud(Small):
    """Returns finite logits whose cross-entropy is infinite."""

    def forward(self, x):
        return super().forward(x) * 1e38


class Pair(nn.Module):
    """Returns a tuple, as recurrent layers and attention do."""

    def forward(self, x):
        return x / 0.0, None


class Paired(Plain):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        return self.out(self.pair(self.hidden(x.flatten(1)))[0])


class WrongInEvaluation(Small):
    def forward(self, x):
        return super().forward(x) * (1.0 if self.training else math.inf)


def error_of(kind, data, folder, **config) -> str:
    with pytest.raises(NotFinite) as raised:
        list(train(make(kind), data, folder, **config))
    return str(raised.value)


def is_finite(state: dict) -> bool:
    tensors = [*state["network"].values(), *state["best"].values(), state["own"][0]["total_loss"]]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_a_layer_that_starts_to_give_nan_is_named_with_epoch_and_step(toy, tmp_path):
    message = error_of(lambda: Within(STEPS + 2), toy, tmp_path, epochs=3)
    assert message.startswith(
        "The loss became nan in epoch 2, step 3: layer breaking (Breaking) is the first to give nan, for inputs of up "
    )
    assert "Try a smaller --train.lr" in message


def test_it_goes_no_further_and_the_last_good_checkpoint_is_kept(toy, tmp_path):
    network = make(lambda: Within(STEPS + 2))
    with pytest.raises(NotFinite):
        list(train(network, toy, tmp_path, epochs=3, checkpoint_seconds=0))
    assert network.breaking.passes == STEPS + 3 + 1  # one more pass, to find the layer
    last = newest(tmp_path)
    assert (last["epoch"], last["batch"]) == (2, 2) and is_finite(last)
    assert not (tmp_path / "best.safetensors").exists()


def test_the_epochs_before_were_told(toy, tmp_path):
    epochs = train(make(lambda: Within(STEPS + 2)), toy, tmp_path, epochs=3)
    assert next(epochs).epoch == 1
    with pytest.raises(NotFinite):
        next(epochs)
    assert newest(tmp_path)["epoch"] == 2


def test_a_layer_that_gives_nan_for_once_is_told_without_a_wrong_reason(toy, tmp_path):
    message = error_of(lambda: Within(4, once=True), toy, tmp_path)
    assert message.startswith("The loss became nan in epoch 1, step 5: ")
    assert "logits go up to" not in message


def test_a_division_between_layers_is_told_as_the_networks_own(toy, tmp_path):
    message = error_of(Dividing, toy, tmp_path)
    assert "step 1: the input before layer out (Linear) holds nan; no layer before it gave that" in message


def test_a_division_after_the_last_layer_is_told_as_the_networks_own(toy, tmp_path):
    assert "DividingLast.forward is the first to give inf" in error_of(DividingLast, toy, tmp_path)


def test_logits_too_large_for_their_cross_entropy_are_told(toy, tmp_path):
    message = error_of(Loud, toy, tmp_path)
    assert message.startswith("The loss became inf in epoch 1, step 1: the network's logits go up to ")
    assert "e+38, too large for a finite loss" in message


def test_a_layer_that_gives_more_than_a_tensor_is_named(toy, tmp_path):
    assert "layer pair (Pair) is the first to give inf" in error_of(Paired, toy, tmp_path)


def test_weights_that_explode_are_told(toy, tmp_path):
    message = error_of(Plain, toy, tmp_path, lr=1000, optimizer="sgd", schedule="constant")
    assert "layer out (Linear) is the first" in message or "layer hidden (Linear) is the first" in message
    assert "in epoch 1, step" in message


def test_weights_that_an_update_broke_are_found_at_the_next_step(toy, tmp_path):
    # A checkpoint, which a busy machine reaches within these steps, finds them first.
    assert error_of(lambda: BrokenUpdate(4), toy, tmp_path, checkpoint_seconds=3600).startswith(
        "The loss became nan in epoch 1, step 6: layer conv (Conv2d) is the first whose weights are broken "
        "(its weight holds nan), by the update of the step before"
    )


def test_weights_that_an_update_broke_are_not_kept(toy, tmp_path):
    message = error_of(lambda: BrokenUpdate(4), toy, tmp_path, checkpoint_seconds=0)
    assert "the update left conv.weight and 5 more not finite" in message
    assert newest(tmp_path)["batch"] == 4 and is_finite(newest(tmp_path))


def test_a_stop_keeps_no_broken_weights(toy, tmp_path):
    assert "not finite" in error_of(lambda: BrokenUpdate(4), toy, tmp_path, should_stop=stop_after(5))
    assert newest(tmp_path) is None


@pytest.mark.parametrize("good", [4, STEPS - 1])
def test_the_step_whose_update_broke_the_weights_is_told(toy, tmp_path, good):
    message = error_of(lambda: BrokenUpdate(good), toy, tmp_path, checkpoint_seconds=0)
    assert f"in epoch 1, step {good + 1}" in message


def test_a_validation_loss_that_is_no_number_is_told_with_its_epoch(toy, tmp_path):
    message = error_of(WrongInEvaluation, toy, tmp_path)
    assert message.startswith("The validation loss or a weight became nan in epoch 1")
    assert "all weights are finite, so the network itself computes it in evaluation mode" in message


def test_pixels_that_are_no_numbers_are_told_as_the_input(toy):
    model = StandardizedModel(make(Plain), (math.nan,), (1.0,))
    finding = first_not_finite(model.network, lambda: [model(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))])
    assert finding == "the input in the network holds nan; no layer before it gave that"


def test_looking_for_it_leaves_no_hooks_and_chance_as_it_was(toy):
    model = StandardizedModel.of(make(Loud), toy)  # which draws for its dropout
    chance = torch.get_rng_state()
    first_not_finite(model.network, lambda: [model(torch.zeros(4, 1, 28, 28, dtype=torch.uint8))])
    assert torch.equal(torch.get_rng_state(), chance)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_step_is_found_by_taking_the_steps_since_the_last_checkpoint_again(toy, tmp_path):
    message = error_of(Loud, toy, tmp_path, device=torch.device("cuda"), epochs=2)
    assert message.startswith("The loss became inf in epoch 1, step 1: the network's logits go up to ")
