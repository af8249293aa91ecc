import copy
import math
import re
import time

import pytest
import torch
from safetensors.torch import load_model
from torch import nn
from torch.nn.functional import cross_entropy

from tests.components.training.small_training import CPU, STEPS, Plain, Small, make, newest, senseless, state, train
from tests.toy import made, toy_data
from torchmill.components import tasks
from torchmill.components.data.augmentation import Augmentation
from torchmill.components.data.samples import Samples, read_training
from torchmill.components.errors import UserError
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.initialization.weights import restore
from torchmill.components.refs import FileRef, NetworkRef
from torchmill.components.training.batches import epoch_batches
from torchmill.components.training.checkpoint import KEPT, Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.memory_format import wants_channels_last
from torchmill.components.training.progress import EpochResult
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.validation import validate


class Viewing(Small):
    """Uses a view after a convolution, which fails on channels-last images."""

    def forward(self, x):
        x = self.conv(x)
        return self.out(x.view(len(x), -1))


def test_it_learns_what_is_plain_to_see(toy, tmp_path):
    network = made("simple_cnn", toy)
    first, last = train(network, toy, tmp_path, epochs=2, lr=1e-3)
    assert last.validation_score > 0.95
    assert last.train_loss < first.train_loss < math.log(10)
    assert 0.5 < first.train_score < last.train_score <= 1
    assert (first.epoch, first.is_last, last.epoch, last.is_last) == (1, False, 2, True)
    assert last.samples_per_second > 0


def test_each_step_sees_its_images_shifted_in_another_way_and_the_validation_as_they_are(toy, tmp_path):
    network, seen = make(Plain), {True: [], False: []}
    network.register_forward_pre_hook(lambda layer, inputs: seen[layer.training].append(inputs[0]))
    list(train(network, toy, tmp_path, seed=5, epochs=2, augment="shift"))
    training, validation = read_training(toy.with_split(0.2, seed=0))
    model, augment = (
        StandardizedModel.of(nn.Identity(), toy),
        Augmentation(toy, seed=5, names=("shift",)),
    )
    expected = [
        model(augment(training.take(batch), epoch, number, batch)[0])
        for epoch in (1, 2)
        for number, batch in enumerate(epoch_batches(480, 32, 5, epoch))
    ]
    assert all(torch.equal(one, other) for one, other in zip(seen[True], expected, strict=True))
    assert torch.equal(torch.cat(seen[False]), model(validation.inputs).repeat(2, 1, 1, 1))


def test_the_test_split_is_not_there_and_not_missed(tmp_path):
    data = toy_data(tmp_path, train=64)
    for file in tmp_path.glob("test_*.npy"):
        file.unlink()
    assert len(list(train(make(), data, tmp_path))) == 1


def test_the_same_seed_gives_the_same_weights_to_the_last_bit_and_another_does_not(toy, tmp_path):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))  # the state before must not matter
        network = make()
        list(train(network, toy, tmp_path, seed=seed))
        states.append(state(network))
    assert states[0] == states[1] != states[2]


@pytest.mark.parametrize(("samples", "size"), [(480, 32), (100, 7), (5, 8), (65, 32)])
def test_an_epoch_sees_every_sample_once(samples, size):
    batches = epoch_batches(samples, size, seed=1, epoch=1)
    seen = torch.cat(batches).tolist()
    left_out = samples % size == 1
    assert len(set(seen)) == len(seen) == samples - left_out and set(seen) <= set(range(samples))
    assert all(len(batch) == size for batch in batches[:-1]) and len(batches[-1]) > 1


def test_sequences_share_batches_with_others_of_like_length_in_no_order():
    lengths = torch.randint(1, 50, (2000,), generator=torch.Generator().manual_seed(0))
    batches = epoch_batches(2000, 50, seed=1, epoch=1, lengths=lengths)
    assert sorted(torch.cat(list(batches)).tolist()) == list(range(2000))
    spans = [int(lengths[batch].max() - lengths[batch].min()) for batch in batches]
    assert sorted(spans)[len(spans) // 2] <= 2  # of 49
    means = torch.tensor([lengths[batch].float().mean() for batch in batches])
    assert abs(torch.corrcoef(torch.stack([means, torch.arange(len(means)).float()]))[0, 1]) < 0.4
    assert any(lengths[batch].tolist() != sorted(lengths[batch].tolist()) for batch in batches)
    again, other = (epoch_batches(2000, 50, 1, epoch, lengths=lengths) for epoch in (1, 2))
    assert all(map(torch.equal, again, batches)) and not all(map(torch.equal, other, batches))


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    def order(seed, epoch):
        torch.manual_seed(time.time_ns() % 1000)
        return torch.cat(epoch_batches(200, 32, seed, epoch)).tolist()

    assert order(3, 4) == order(3, 4)
    different = {tuple(order(seed, epoch)) for seed in range(5) for epoch in range(1, 11)}
    assert len(different) == 50


def test_a_last_batch_of_one_is_another_sample_in_each_epoch_and_an_only_one_is_kept():
    left_out = {(set(range(33)) - set(torch.cat(epoch_batches(33, 32, 0, epoch)).tolist())).pop() for epoch in range(9)}
    assert len(left_out) > 1
    assert [batch.tolist() for batch in epoch_batches(1, 32, 0, 1)] == [[0]]


def test_a_batch_norm_is_trained_where_one_sample_is_left_over(toy, tmp_path):
    training, validation = read_training(toy.with_split(0.2, seed=0))
    cut = Samples(training.inputs[:33], training.labels[:33])
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))
    (epoch,) = train(network, toy, tmp_path, splits=(cut, validation))
    assert math.isfinite(epoch.train_loss)


def test_training_stops_out_of_patience_and_the_best_weights_are_those_of_the_least_validation_loss(toy, tmp_path):
    splits = senseless(toy)
    network, states, epochs = make(), [], []
    for epoch in train(network, toy, tmp_path, splits=splits, epochs=40, patience=3, schedule="constant"):
        epochs.append(epoch)
        states.append(state(network))
    losses = [epoch.validation_loss for epoch in epochs]
    best = losses.index(min(losses))
    assert len(epochs) - 1 - best == 3 and len(epochs) < 40
    assert epochs[-1].is_last and not any(epoch.is_last for epoch in epochs[:-1])
    assert [epoch.is_best for epoch in epochs] == [
        loss < min([math.inf, *losses[:at]]) for at, loss in enumerate(losses)
    ]

    kept = make(seed=1)
    load_model(kept, tmp_path / "best.safetensors")
    assert state(kept) == state(network) == states[best] != states[-1]
    loss, accuracy = validate(StandardizedModel.of(kept, toy), cross_entropy, tasks.task("classification"), splits[1])
    # Sums round differently in another memory format.
    assert loss == pytest.approx(min(losses), rel=1e-5) and accuracy == epochs[best].validation_score


def test_the_best_weights_can_be_restored(toy, tmp_path):
    network = made("simple_cnn", toy)
    (epoch,) = train(network, toy, tmp_path)
    assert epoch.is_best
    weights = FileRef.of(tmp_path / "best.safetensors")
    ref = NetworkRef(reference="simple_cnn", arguments={}, weights=weights, parameters=1)
    assert state(restore(ref, weights, toy)) == state(network)


def test_the_checkpoint_holds_what_decides_what_comes_next(toy, tmp_path):
    network = make()
    epochs, last, weights, chance = [], {}, {}, torch.empty(0)
    for epoch in train(network, toy, tmp_path, epochs=2):
        epochs.append(epoch)
        last, weights, chance = newest(tmp_path), state(network), torch.get_rng_state()
    assert {name: tensor.numpy().tobytes() for name, tensor in last["network"].items()} == weights
    assert torch.equal(last["own"][0]["random"]["torch"], chance)
    best = min(epochs, key=lambda epoch: epoch.validation_loss)
    assert (last["epoch"], last["batch"]) == (3, 0)  # the next step
    assert (last["best_epoch"], last["best_loss"]) == (best.epoch, best.validation_loss)
    assert last["schedule"]["last_epoch"] == 2 * STEPS
    assert last["optimizer"]["state"]
    assert [EpochResult(**epoch) for epoch in last["history"]] == epochs


def test_a_checkpoint_is_there_when_an_epoch_is_told_and_the_best_weights_at_the_end(toy, tmp_path):
    epochs = train(make(), toy, tmp_path, epochs=2)
    next(epochs)
    assert (newest(tmp_path)["epoch"], newest(tmp_path)["batch"]) == (2, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    list(epochs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "checkpoints"]


def test_a_disk_that_takes_no_more_at_the_end_stops_the_training_in_words(toy, tmp_path, small_disk):
    with small_disk(10_000), pytest.raises(UserError, match=r"Cannot write .*\.pt: File too large"):
        list(train(make(), toy, tmp_path))
    assert list(tmp_path.rglob("*.*")) == []


def test_best_weights_that_the_disk_did_not_take_are_written_the_next_time(toy, tmp_path, small_disk):
    epochs = train(make(), toy, tmp_path)
    next(epochs)
    with small_disk(10_000), pytest.raises(UserError, match=r"Cannot write .*best\.safetensors: File too large"):
        next(epochs)
    network = make()
    (epoch,) = train(network, toy, tmp_path, resume=True)
    kept = make(seed=1)
    load_model(kept, tmp_path / "best.safetensors")
    assert epoch.is_last and state(kept) == state(network)


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_not_the_training(toy, tmp_path, small_disk, caplog):
    epochs = train(make(), toy, tmp_path, epochs=3, checkpoint_seconds=0)
    next(epochs)
    with small_disk(10_000):
        next(epochs)
        assert newest(tmp_path)["epoch"] == 2  # the checkpoint before the disk was full
    warning = caplog.records[0].getMessage()
    assert re.match(r"No checkpoint: Cannot write .*File too large.* The training goes on", warning), warning
    assert next(epochs).is_last
    assert newest(tmp_path)["epoch"] == 4
    assert len(list((tmp_path / "checkpoints").iterdir())) == KEPT


def test_the_learning_rate_told_is_that_of_the_last_step(toy, tmp_path):
    epochs = list(train(make(), toy, tmp_path, epochs=3, schedule="step", lr=0.01))
    assert [epoch.lr for epoch in epochs] == pytest.approx([0.01, 0.001, 0.0001])


def test_channels_last_is_for_convolutions_that_bear_it(toy):
    def wanted(network, **config):
        return wants_channels_last(network, TrainConfig(**config), CPU, toy)

    viewing = make(Viewing)
    assert wanted(make()) and not wanted(viewing) and not wanted(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    assert viewing.conv.weight.is_contiguous()
    assert wanted(make(), channels_last="on") and not wanted(make(), channels_last="off")
    with pytest.raises(UserError, match="channels-last") as refused:
        wanted(viewing, channels_last="on")
    assert "reshape" in refused.value.remedy


def test_asking_for_the_memory_format_changes_neither_weights_nor_modes_nor_chance(toy):
    network = make()
    network.norm.eval()
    torch.manual_seed(3)
    before, modes, chance = state(network), [m.training for m in network.modules()], torch.get_rng_state()
    wants_channels_last(network, TrainConfig(), CPU, toy)
    assert (state(network), [m.training for m in network.modules()]) == (before, modes)
    assert torch.equal(torch.get_rng_state(), chance)


def test_a_view_behind_a_convolution_is_trained(toy, tmp_path):
    *_, last = train(make(Viewing), toy, tmp_path, epochs=2)
    assert last.validation_score > 0.9


def test_the_memory_format_changes_the_result_by_no_more_than_rounding(toy, tmp_path):
    results = []
    for choice in ("on", "off"):
        network = make()
        (epoch,) = train(network, toy, tmp_path, channels_last=choice, optimizer="sgd", lr=1e-2)
        results.append((epoch, network))
    (one, first), (other, second) = results
    assert first.conv.weight.is_contiguous(memory_format=torch.channels_last) and second.conv.weight.is_contiguous()
    assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a.contiguous(), b, rtol=1e-3, atol=1e-4)


def test_progress_is_told_within_an_epoch(toy, tmp_path):
    class Slow(Small):
        def forward(self, x):
            time.sleep(0.05 * self.training)
            return super().forward(x)

    told = []
    (epoch,) = train(make(Slow), toy, tmp_path, on_progress=told.append)
    seen = [progress.samples for progress in told]
    assert 2 <= len(told) < 15  # 15 steps of 0.05 s, told every 0.25 s
    assert seen == sorted(set(seen)) and all(count % 32 == 0 and count <= 480 for count in seen)
    assert {progress.epoch for progress in told} == {1}
    assert all(math.isfinite(progress.loss) and 0 <= progress.score <= 1 for progress in told)
    assert told[0].loss > epoch.train_loss  # mean of the first batches, before it has learned much


def test_every_parameter_that_wants_a_gradient_moves_and_no_other(toy, tmp_path):
    network = make()
    network.conv.requires_grad_(False)
    before = copy.deepcopy(network)
    list(train(network, toy, tmp_path))
    moved = {
        name
        for (name, old), new in zip(before.named_parameters(), network.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert moved == {"norm.weight", "norm.bias", "out.weight", "out.bias"}


def test_validation_is_mean_loss_and_accuracy_in_evaluation_mode(toy):
    _, validation = read_training(toy.with_split(0.2, seed=0))
    model = StandardizedModel.of(make(), toy).train()
    judged = (model, cross_entropy, tasks.task("classification"), validation)
    got = validate(*judged, parts=3)
    assert not model.training and validate(*judged) == pytest.approx(got)
    with torch.no_grad():
        logits = model(validation.inputs)
    chances = torch.softmax(logits.double(), 1)[torch.arange(len(validation)), validation.labels]
    assert got[0] == pytest.approx(-chances.log().mean().item(), rel=1e-5)
    assert got[1] == (logits.argmax(1) == validation.labels).double().mean().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_learns_on_a_gpu_too(toy, tmp_path):
    training, validation = read_training(toy.with_split(0.2, seed=0))
    network = made("simple_cnn", toy)
    config = TrainConfig(epochs=2, batch_size=32)
    checkpoints, best = Checkpoints(tmp_path / "checkpoints", 30), tmp_path / "best.safetensors"
    *_, last = fit(
        TrainingSetup(network, training, validation, toy, config, torch.device("cuda"), 0), checkpoints, best
    )
    assert last.validation_score > 0.95


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(784), nn.Linear(784, 10)

    def forward(self, x):
        return self.out(self.norm(x.flatten(1)))


def test_batches_of_one_sample_are_refused_for_batch_normalization_with_the_remedy(toy, tmp_path):
    with pytest.raises(UserError, match=r"single sample[\s\S]*--train.batch_size to 2 or more"):
        list(train(Normalized(), toy, tmp_path, epochs=1, batch_size=1))
