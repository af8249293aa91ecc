import numpy as np
import pytest
import torch

from components.data.batches import read_test, read_training, stratified_split


def test_training_and_validation_are_the_training_file_and_nothing_else(toy):
    pixels, labels = np.load(toy.folder / "train_images.npy"), np.load(toy.folder / "train_labels.npy")
    training, validation = read_training(toy, 0.2, seed=3)
    together = torch.cat([training.pixels, validation.pixels]).numpy()
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in pixels)
    by_image = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for split in (training, validation):
        assert (split.pixels.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert [by_image[image.tobytes()] for image in split.pixels.numpy()] == split.labels.tolist()


def test_the_test_split_is_the_test_file(toy):
    test = read_test(toy)
    assert np.array_equal(test.pixels.numpy(), np.load(toy.folder / "test_images.npy"))
    assert np.array_equal(test.labels.numpy(), np.load(toy.folder / "test_labels.npy"))


def test_training_is_read_where_there_is_no_test_split(toy, tmp_path):
    for name in ("train_images.npy", "train_labels.npy"):
        (tmp_path / name).write_bytes((toy.folder / name).read_bytes())
    training, validation = read_training(toy.model_copy(update={"folder": tmp_path}), 0.2, seed=0)
    assert len(training) + len(validation) == toy.train_size


def test_the_validation_split_takes_its_share_of_each_class():
    labels = np.random.default_rng(0).choice(4, 1000, p=[0.6, 0.3, 0.08, 0.02])
    training, validation = stratified_split(labels, 0.25, seed=1)
    assert np.array_equal(np.sort(np.r_[training, validation]), np.arange(1000))
    for label in range(4):
        assert (labels[validation] == label).sum() == round(0.25 * (labels == label).sum())


def test_a_split_is_a_function_of_the_seed():
    labels = np.arange(100) % 5
    first, again, other = (stratified_split(labels, 0.2, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.89])
def test_a_class_keeps_one_sample_for_training_and_gives_one_where_it_can(fraction):
    labels = np.array([0] * 50 + [1] * 2 + [2])
    training, validation = stratified_split(labels, fraction, seed=0)
    assert set(labels[training]) == {0, 1, 2}
    assert set(labels[validation]) == {0, 1}


def test_batches_are_all_samples_in_their_order(toy_test):
    batches = list(toy_test.batches(64))
    assert [len(labels) for _, labels in batches] == [64, 64, 64, 11]
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), toy_test.pixels)
    assert torch.equal(torch.cat([labels for _, labels in batches]), toy_test.labels)
