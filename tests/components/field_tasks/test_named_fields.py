"""Named fields from a user's function: their kinds, splits and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_fields import own_data, own_file
from torchmill.components.data.fetch import fetch
from torchmill.components.data.field_samples import read_fields
from torchmill.components.data.named_fields import named_fields
from torchmill.components.errors import UserError
from torchmill.components.initialization.build import build
from torchmill.components.initialization.fields_model import FieldsModel


def kinds(data) -> dict[str, tuple[str, bool]]:
    return {field.name: (field.kind, field.is_target) for field in named_fields(data)}


def test_each_field_has_its_kind_role_and_statistics(tmp_path):
    data = own_data(tmp_path, "scans", "segmentation")
    assert kinds(data) == {"image": ("image", False), "mask": ("mask", True)}
    image, mask = named_fields(data)
    assert image.shape == (3, 12, 12) and mask.shape == (12, 12) and mask.size == 2
    stored = np.load(data.folder / "train_image.npy")
    np.testing.assert_allclose(image.mean, stored.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(image.std, stored.std((0, 2, 3)), rtol=1e-9)
    assert data.measure == "iou" and data.train_size + data.test_size == 60


def test_batches_are_standardized_and_masks_keep_ignored_pixels(tmp_path):
    data = own_data(tmp_path, "scans", "segmentation")
    model = FieldsModel.of(build("unet", {"width": 4, "depth": 1, "num_classes": 2}, data), data)
    train, validation = read_fields(data, "train"), read_fields(data, "validation")
    assert len(train) + len(validation) == data.train_size
    batch = model.prepared(train.take(torch.arange(len(train))))
    assert batch["image"].mean().abs() < 0.2 and set(batch["mask"].unique().tolist()) == {-100, 0, 1}
    assert torch.equal(batch.raw["image"], train.take(torch.arange(len(train)))["image"])
    first, second = batch.split(2)
    assert first.size + second.size == batch.size
    assert torch.equal(torch.cat([first.raw["mask"], second.raw["mask"]]), batch.raw["mask"])


def test_fields_go_to_the_parameters_of_their_names(tmp_path):
    data = own_data(tmp_path, "pairs", "Distance")
    network = build(f"{tmp_path}/own.py:Both", {}, data)
    model = FieldsModel.of(network.eval(), data)
    assert list(model.taken) == ["right", "left"]
    batch = model.prepared(read_fields(data, "test").take(torch.arange(5)))
    left, right = model(batch)
    assert torch.equal(left, network.body(batch["left"])) and torch.equal(right, network.body(batch["right"]))
    assert model.body is network.body  # parts of the network are called as the network's


def test_ragged_fields_are_padded_and_cut_to_the_longest(tmp_path):
    data = own_data(tmp_path, "ragged", "Tagging")
    assert kinds(data) == {"tokens": ("ids", False), "tags": ("ids", True), "lengths": ("lengths", False)}
    samples = read_fields(data, "train")
    short = torch.nonzero(samples.lengths <= 4).flatten()[:3]
    batch = samples.take(short)
    assert batch["tokens"].shape == batch["tags"].shape == (3, int(batch["lengths"].max()))
    seen = {}
    network = build(f"{tmp_path}/own.py:Tagger", {}, data)
    network.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    model = FieldsModel.of(network, data)
    model(model.prepared(batch))
    assert seen["attention_mask"].sum(1).tolist() == batch["lengths"].tolist()


@pytest.mark.parametrize("large", [False, True])
def test_fields_larger_than_memory_are_read_from_disk(tmp_path, monkeypatch, large):
    data = own_data(tmp_path, "ragged", "Tagging")
    whole = read_fields(data, "train")
    if large:
        monkeypatch.setattr("torchmill.components.data.field_samples.IN_MEMORY", 0.0)
    samples = read_fields(data, "train")
    assert bool(samples.elsewhere) == large
    orders = [torch.tensor([3, 0, 7]), torch.tensor([5])]
    for given, expected in zip(samples.ahead(orders), map(whole.take, orders), strict=True):
        assert given.keys() == expected.keys()
        assert all(torch.equal(given[name], expected[name]) for name in given)
    part = samples.part(torch.tensor([3, 5]))
    assert torch.equal(part.take(torch.tensor([1]))["tokens"], whole.take(torch.tensor([5]))["tokens"])


GROUPS = """
def grouped():
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(40), 5)
    return {"train": {"features": rng.normal(size=(200, 3)), "target": rng.normal(size=200)}, "groups": person}

def items():
    class Items:
        def __len__(self):
            return 30
        def __getitem__(self, number):
            return {"features": torch.tensor([number, 2.0]), "label": number % 3}
    return Items()
"""


def test_groups_stay_whole_in_every_split(tmp_path):
    file = own_file(tmp_path, GROUPS)
    data = fetch(f"{file}:grouped", tmp_path / "cache")
    features = {split: np.load(data.folder / f"{split}_features.npy")[:, 0] for split in ("train", "test")}
    rng = np.random.default_rng(3)
    person = dict(
        zip(rng.normal(size=(200, 3)).astype(np.float32)[:, 0].tolist(), np.repeat(np.arange(40), 5), strict=True)
    )
    people = {split: {person[value] for value in values.tolist()} for split, values in features.items()}
    assert not people["train"] & people["test"] and len(people["train"] | people["test"]) == 40
    goal = data.model_copy(update={"goal": None})
    parts = {split: read_fields(goal, split).fields["features"][:, 0].tolist() for split in ("train", "validation")}
    assert not {person[value] for value in parts["train"]} & {person[value] for value in parts["validation"]}


def told(names: str) -> str:
    return f"""
def told():
    fields = {{"features": np.arange(60.0)[:, None] + [[0, 0.5]], "target": np.arange(60.0)}}
    return {{"train": fields, "split": {names}}}
"""


def test_samples_are_in_the_split_that_the_data_names(tmp_path):
    names = "['Train'] * 40 + ['val'] * 8 + ['testing'] * 12"
    data = fetch(f"{own_file(tmp_path, told(names))}:told", tmp_path / "cache")
    parts = {split: read_fields(data, split).fields["target"].tolist() for split in ("train", "validation", "test")}
    assert parts == {"train": [*range(40)], "validation": [*range(40, 48)], "test": [*range(48, 60)]}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("['train'] * 59 + ['tset']", "'split' of sample 59 is 'tset'. Did you mean test"),
        ("['test'] * 60", "'split' leaves no sample for train"),
        ("['train'] * 9", "for 60 samples of train. Give a name for each sample"),
        ("['train'] * 60, 'test': fields", "gives 'split' and a 'test'"),
    ],
)
def test_names_of_splits_that_do_not_fit_are_told(tmp_path, names, words):
    with pytest.raises(UserError) as error:
        fetch(f"{own_file(tmp_path, told(names))}:told", tmp_path / "cache")
    assert words in str(error.value)


def test_a_dataset_of_mappings_gives_its_keys(tmp_path):
    data = fetch(f"{own_file(tmp_path, GROUPS)}:items", tmp_path / "cache")
    assert kinds(data) == {"features": ("values", False), "label": ("ids", True)}


BAD = """
def lengths():
    return {"image": np.zeros((4, 8, 8), np.uint8), "mask": np.zeros((5, 8, 8), int)}

def nan():
    values = np.zeros((30, 2))
    values[7, 1] = np.nan
    return {"features": values, "target": np.zeros(30)}

def classes():
    train = {"image": np.zeros((30, 8, 8), np.uint8), "mask": np.full((30, 8, 8), 3)}
    return {"train": train, "names": {"mask": ["a", "b"]}}

def negative():
    return {"ids": np.full((30, 3), -2), "target": np.zeros(30)}

def missing():
    part = {"features": np.zeros((30, 2)), "target": np.zeros(30)}
    return {"train": part, "test": {"feature": np.zeros((3, 2)), "target": np.zeros(3)}}

def targets():
    return {"train": {"features": np.zeros((30, 2))}, "targets": ["featurs"]}

def apart():
    return {"tokens": [[1, 2], [3], [4, 5, 6]] * 10, "tags": [[0, 1], [1, 1], [0, 0, 0]] * 10}

def large():
    return {"image": np.zeros((30, 8, 8), np.uint8), "mask": np.full((30, 8, 8), 300)}
"""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("lengths", "fields have different numbers of samples: image 4, mask 5"),
        ("nan", "field 'features' of train: 1 sample holds values that are no finite numbers; the first is number 7"),
        ("classes", "field 'mask' holds class 3, and 'names' has 2"),
        ("negative", "field 'ids' of train holds -2"),
        ("missing", "test has no field 'features'. Did you mean feature?"),
        ("targets", "'targets' names 'featurs', which is no field. Did you mean features?"),
        ("apart", "field 'tags' of train: sample 1 has the length 2, and 1 in an earlier field"),
        ("large", "holds classes from 0 to 300"),
    ],
)
def test_bad_fields_are_told_with_their_place(tmp_path, function, words):
    with pytest.raises(UserError) as error:
        fetch(f"{own_file(tmp_path, BAD)}:{function}", tmp_path / "cache")
    assert words in str(error.value)


NETWORKS = """
class Misnamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 4)

    def forward(self, left, rigth):
        return self.body(left), self.body(rigth)
"""


def test_a_forward_that_no_field_fits_is_told_with_the_near_name(tmp_path):
    data = own_data(tmp_path, "pairs", "Distance", NETWORKS)
    model = FieldsModel.of(build(f"{tmp_path}/own.py:Misnamed", {}, data), data, "own.py:Misnamed")
    batch = model.prepared(read_fields(data, "test").take(torch.arange(2)))
    with pytest.raises(UserError, match=r"forward of own.py:Misnamed takes rigth.*Did you mean right"):
        model(batch)


def test_a_data_set_of_labels_has_fields_too(digits_data):
    assert kinds(digits_data) == {"image": ("image", False), "label": ("ids", True)}


@pytest.fixture(scope="module")
def digits_data(tmp_path_factory: pytest.TempPathFactory):
    return fetch("digits", Path(tmp_path_factory.mktemp("cache")))
