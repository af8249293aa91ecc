import numpy as np
import pytest
import torch

from tests.toy import toy_numbers, toy_tokens
from torchmill.components.data import samples as batches
from torchmill.components.data.samples import Samples, read_sample, read_test, read_training, sequence_lengths
from torchmill.components.data.splits import cut_validation
from torchmill.components.refs import DataRef


def test_training_and_validation_are_the_training_file_and_nothing_else(toy):
    pixels, labels = np.load(toy.folder / "train_inputs.npy"), np.load(toy.folder / "train_labels.npy")
    training, validation = read_training(toy.with_split(0.2, seed=3))
    together = torch.cat([training.inputs, validation.inputs]).numpy()
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in pixels)
    by_image = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for split in (training, validation):
        assert (split.inputs.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert [by_image[image.tobytes()] for image in split.inputs.numpy()] == split.labels.tolist()


def test_the_test_split_is_the_test_file(toy):
    test = read_test(toy)
    assert np.array_equal(test.inputs.numpy(), np.load(toy.folder / "test_inputs.npy"))
    assert np.array_equal(test.labels.numpy(), np.load(toy.folder / "test_labels.npy"))


def test_training_is_read_without_a_test_split(toy, tmp_path):
    for name in ("train_inputs.npy", "train_labels.npy"):
        (tmp_path / name).write_bytes((toy.folder / name).read_bytes())
    training, validation = read_training(toy.model_copy(update={"folder": tmp_path}).with_split(0.2, seed=0))
    assert len(training) + len(validation) == toy.train_size


def test_batches_are_all_samples_in_their_order(toy_test):
    parts = list(toy_test.batches(64))
    assert [len(labels) for _, labels in parts] == [64, 64, 64, 11]
    assert torch.equal(torch.cat([pixels for pixels, _ in parts]), toy_test.inputs)
    assert torch.equal(torch.cat([labels for _, labels in parts]), toy_test.labels)


@pytest.fixture(params=["in memory", "on disk"])
def memory(request, monkeypatch) -> str:
    if request.param == "on disk":
        monkeypatch.setattr(batches, "IN_MEMORY", 0)
    return request.param


@pytest.fixture
def tokens(tmp_path) -> DataRef:
    return toy_tokens(tmp_path, train=40, validation=12, test=15)


def array(data: DataRef, name: str) -> np.ndarray:
    return np.load(data.folder / f"{name}.npy")


def everything(split: Samples) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = split.take(torch.arange(len(split)))
    return inputs.numpy(), labels.numpy()


def test_samples_mapped_from_disk_equal_those_in_memory(toy, monkeypatch):
    held = *read_training(toy.with_split(0.2, seed=3)), read_test(toy)
    monkeypatch.setattr(batches, "IN_MEMORY", 0)
    mapped = *read_training(toy.with_split(0.2, seed=3)), read_test(toy)
    indices = torch.randperm(len(held[0]), generator=torch.Generator().manual_seed(0))[:32]
    for one, other in zip(held, mapped, strict=True):
        assert one.rows is None and other.rows is not None and len(one) == len(other)
        assert all(np.array_equal(*pair) for pair in zip(everything(one), everything(other), strict=True))
        for size in (7, 1000):
            for (inputs, labels), (same, too) in zip(one.batches(size), other.batches(size), strict=True):
                assert torch.equal(inputs, same) and torch.equal(labels, too)
        few = indices[indices < len(one)]
        assert all(torch.equal(*pair) for pair in zip(one.take(few), other.take(few), strict=True))


def test_batches_that_are_read_ahead_are_those_that_are_taken_in_their_order(tokens, memory):
    training, _ = read_training(tokens.with_split(0.5, seed=3))
    orders = torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(7)
    given = list(training.ahead(orders))
    assert len(given) == 6 and not list(training.ahead([]))
    for order, (inputs, labels) in zip(orders, given, strict=True):
        same, too = training.take(order)
        assert torch.equal(inputs, same) and torch.equal(labels, too)


def test_an_error_while_reading_ahead_is_raised_with_its_batch(tokens, monkeypatch):
    monkeypatch.setattr(batches, "IN_MEMORY", 0)
    training, _ = read_training(tokens.with_split(0.5, seed=3))
    ahead = training.ahead([torch.tensor([0]), torch.tensor([40])])
    next(ahead)
    with pytest.raises(IndexError):
        next(ahead)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inputs_too_large_for_the_gpu_are_sent_batch_by_batch(toy, monkeypatch):
    training, _ = read_training(toy.with_split(0.2, seed=3))
    resident = training.to(torch.device("cuda"))
    monkeypatch.setattr(batches, "ON_CARD", 0)
    sent = training.to(torch.device("cuda"))
    assert resident.inputs.is_cuda and not sent.inputs.is_cuda
    orders = torch.arange(len(training)).split(64)
    for one, other in zip(resident.ahead(orders), sent.ahead(orders), strict=True):
        assert all(there.is_cuda and torch.equal(here, there) for here, there in zip(one, other, strict=True))


def test_arrays_on_disk_are_left_as_they_are(tokens, monkeypatch):
    monkeypatch.setattr(batches, "IN_MEMORY", 0)
    before = {file.name: file.read_bytes() for file in tokens.folder.iterdir()}
    training, _ = read_training(tokens.with_split(0.2, seed=0))
    taken, _ = training.take(torch.arange(5))
    taken += 1
    assert {file.name: file.read_bytes() for file in tokens.folder.iterdir()} == before


def test_a_data_sets_own_validation_split_is_taken_whole_and_cut_from_nothing(tokens, memory):
    training, validation = read_training(tokens.with_split(0.5, seed=3))
    for split, name in ((training, "train"), (validation, "validation"), (read_test(tokens), "test")):
        inputs, labels = everything(split)
        assert np.array_equal(inputs, array(tokens, f"{name}_inputs")) and inputs.dtype == np.int32
        assert np.array_equal(labels, array(tokens, f"{name}_labels")) and labels.dtype == np.int64


def test_sequences_are_as_long_as_the_longest_of_those_that_are_taken(tokens, memory):
    training, _ = read_training(tokens.with_split(0.5, seed=3))
    whole = array(tokens, "train_inputs")
    lengths = (whole != 0).sum(1)
    assert training.lengths.tolist() == lengths.tolist()
    for indices in (torch.tensor([0]), torch.tensor([5, 3]), torch.arange(40)):
        inputs, labels = training.take(indices)
        longest = lengths[indices.numpy()].max()
        assert inputs.shape == (len(indices), longest) and labels.tolist() == training.labels[indices].tolist()
        assert np.array_equal(inputs.numpy(), whole[indices.numpy(), :longest])
        assert not whole[indices.numpy(), longest:].any()
    shapes = [tuple(inputs.shape) for inputs, _ in training.batches(8)]
    assert shapes == [(8, lengths[start : start + 8].max()) for start in range(0, 40, 8)]


def test_a_padding_within_a_sequence_belongs_to_it_and_an_empty_one_is_one_long():
    tokens = np.array([[2, 0, 3, 0], [0, 0, 0, 0], [2, 3, 4, 5], [0, 0, 0, 7]], np.int32)
    assert sequence_lengths(tokens).tolist() == [3, 1, 4, 4]
    assert sequence_lengths(np.zeros((3, 0), np.int32)).tolist() == [1, 1, 1]


def test_the_first_samples_are_samples_too(tokens, toy, memory):
    for data in (tokens, toy):
        training, _ = read_training(data.with_split(0.2, seed=0))
        first = training.first(5)
        assert len(first) == 5 and len(training.first(10_000)) == len(training)
        for one, other in zip(first.take(torch.arange(5)), training.take(torch.arange(5)), strict=True):
            assert torch.equal(one, other)
        assert len(list(first.batches(2))) == 3


def test_samples_on_a_device_are_taken_there(tokens, memory):
    training, _ = read_training(tokens.with_split(0.2, seed=0))
    moved = training.to(torch.device("meta"))
    inputs, labels = moved.take(torch.tensor([0, 1]))
    assert inputs.is_meta and labels.is_meta and inputs.shape == (2, training.lengths[:2].max())


def test_targets_are_standardised_for_training_and_in_their_own_units_for_the_test(tmp_path, memory):
    data = toy_numbers(tmp_path, task="regression", scales=(1e-3, 1, 1e4))
    training, validation = read_training(data.with_split(0.2, seed=0))
    together = torch.cat([training.labels, validation.labels])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(together.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert np.array_equal(read_test(data).labels.numpy(), array(data, "test_labels"))
    told = training.labels.numpy() * np.array(data.target_std) + np.array(data.target_mean)
    chosen, _ = cut_validation(data.with_split(0.2, seed=0), array(data, "train_labels"))
    np.testing.assert_allclose(told, array(data, "train_labels")[chosen], rtol=1e-4, atol=1e-5)


def test_a_target_that_is_always_the_same_is_only_centred(tmp_path):
    data = toy_numbers(tmp_path, task="regression").model_copy(update={"target_std": (1.0, 0.0, 1.0)})
    labels = read_training(data.with_split(0.2, seed=0))[0].labels
    assert labels.isfinite().all()


def test_labels_are_floats_for_the_loss_and_are_not_stratified(tmp_path, memory):
    data = toy_numbers(tmp_path, task="multilabel")
    training, validation = read_training(data.with_split(0.25, seed=0))
    assert len(training) + len(validation) == 400 and 75 < len(validation) < 125
    assert training.labels.dtype == torch.float32 and set(training.labels.unique().tolist()) == {0.0, 1.0}
    assert everything(training)[0].dtype == np.float32


def test_a_sample_of_the_training_file_is_some_of_it_the_same_for_the_same_seed(tokens, toy, memory):
    for data in (tokens, toy):
        first, again, other = (read_sample(data, 20, seed) for seed in (0, 0, 1))
        assert len(first) == 20 and len(read_sample(data, 10_000, 0)) == data.train_size
        assert np.array_equal(everything(first)[0], everything(again)[0])
        assert not np.array_equal(first.labels, other.labels)
        pairs = zip(array(data, "train_inputs"), array(data, "train_labels"), strict=True)
        rows = {row.tobytes(): label for row, label in pairs}
        inputs = first.inputs.numpy() if first.rows is None else everything(first)[0]
        assert all(rows[row.tobytes()] == label for row, label in zip(inputs, first.labels.tolist(), strict=True))
