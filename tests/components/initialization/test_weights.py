"""Weights are saved and restored bit for bit."""

import pytest
import torch
from torch import nn

from tests.components.initialization.networks import LINEAR, reference_to, same
from tests.toy import made
from torchmill.components.errors import UserError
from torchmill.components.initialization.weights import restore, save_weights
from torchmill.components.models.simple_cnn import SimpleCNN
from torchmill.components.refs import FileRef


def test_lazy_layers_get_their_shapes_before_their_weights(toy, own, tmp_path):
    reference = own("def Own():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))")
    network = made(reference, toy)
    assert network[1].weight.shape == (10, 784)
    assert network[1].weight.var().item() == pytest.approx(2 / 794, rel=0.1)
    ref = save_weights(network, tmp_path / "w.safetensors")
    assert same(network, restore(reference_to(reference, network, ref), ref, toy))


def test_weights_are_restored_bit_for_bit(toy, tmp_path):
    network = made("simple_cnn", toy, "kaiming_uniform").to(memory_format=torch.channels_last)
    ref = save_weights(network, tmp_path / "w.safetensors")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    restored = restore(reference_to("simple_cnn", network, ref), ref, toy)
    assert same(network, restored)
    assert torch.equal(torch.get_rng_state(), before)
    assert save_weights(restored, tmp_path / "again.safetensors").sha256 == ref.sha256


def test_buffers_are_restored(toy, own, tmp_path):
    reference = own(
        "def Own():\n    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(2704, 10))"
    )
    network = made(reference, toy)
    network(torch.rand(8, 1, 28, 28))
    ref = save_weights(network, tmp_path / "w.safetensors")
    assert same(network, restore(reference_to(reference, network, ref), ref, toy))


def test_tied_weights_are_restored_as_tied(toy, own, tmp_path):
    text = (
        "class Own(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(784, 784), nn.Linear(784, 784)\n        self.b.weight = self.a.weight\n"
        "        self.out = nn.Linear(784, 10)\n"
        "    def forward(self, x):\n        return self.out(self.b(self.a(x.flatten(1))))"
    )
    reference = own(text)
    network = made(reference, toy)
    ref = save_weights(network, tmp_path / "w.safetensors")
    restored = restore(reference_to(reference, network, ref), ref, toy)
    assert same(network, restored) and restored.a.weight is restored.b.weight


def test_a_changed_or_missing_file_of_weights_is_refused(toy, tmp_path):
    network = SimpleCNN()
    path = tmp_path / "w.safetensors"
    ref = save_weights(network, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"missing or has changed since it was written. Run the training again"):
        restore(reference_to("simple_cnn", network, ref), ref, toy)
    path.unlink()
    with pytest.raises(UserError, match="missing or has changed"):
        restore(reference_to("simple_cnn", network, ref), ref, toy)


def test_weights_of_another_network_are_refused(toy, own, tmp_path):
    ref = save_weights(SimpleCNN(), tmp_path / "w.safetensors")
    reference = own(LINEAR)
    with pytest.raises(UserError, match="does not fit"):
        restore(reference_to(reference, SimpleCNN(), ref), ref, toy)
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="does not fit"):
        nonsense = FileRef.of(tmp_path / "w.safetensors")
        restore(reference_to("simple_cnn", SimpleCNN(), nonsense), nonsense, toy)


def test_a_full_disk_raises_a_readable_error(tmp_path, small_disk):
    save_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()
    with small_disk(100_000), pytest.raises(UserError, match=r"Cannot write .*w.safetensors: File too large"):
        save_weights(SimpleCNN(), tmp_path / "w.safetensors")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"w.safetensors": before}


def test_weights_are_restored_with_gradients_disabled(toy, tmp_path):
    network = made("simple_cnn", toy)
    ref = save_weights(network, tmp_path / "w.safetensors")
    with torch.inference_mode(False), torch.no_grad():
        assert same(network, restore(reference_to("simple_cnn", network, ref), ref, toy))
