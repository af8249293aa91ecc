"""Every network on every data set that it accepts: the files in ``components/data/datasets``, as loaded."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.components.models.test_contract import kinds
from tests.toy import made, toy_data, with_different_answers
from torchmill.components.data.config import DATASETS, dataset_names
from torchmill.components.data.fetch import fetch, read_vocabulary
from torchmill.components.data.samples import read_sample, read_test
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import export
from torchmill.components.initialization.config import model_names
from torchmill.components.initialization.standardized_model import StandardizedModel, standardized
from torchmill.components.initialization.weights import restore, save_weights
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef, NetworkRef
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.losses import make_loss

TESTED = 200
"""Test samples to compare an export on; whole runs compare all of them."""


def image_files(folder: Path) -> str:
    """Write dark and bright color images of different sizes; return the reference to them."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            size = (30 + number % 3, 30)
            pixels = rng.integers(100 * label, 100 * label + 150, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return f"image_folder:{folder}"


def texts(folder: Path) -> str:
    """Write short texts on two subjects; return the reference to them."""
    rng = np.random.default_rng(0)
    for label, words in (("water", ["sea", "rain", "wave", "the"]), ("fire", ["sun", "spark", "coal", "the"])):
        (folder / label).mkdir(parents=True)
        for number in range(60):
            text = " ".join(rng.choice(words, 3 + number % 9)) + f" {number}"
            (folder / label / f"{number}.txt").write_text(text)
    return f"text_folder:{folder}"


def table(folder: Path) -> str:
    """Write a CSV file with two numbers, a category and a label; return the reference to it."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["size", "age", "color", "label"])
        for size, age in rng.uniform(0, 100, (200, 2)):
            rows.writerow([f"{size:.3f}", f"{age:.3f}", rng.choice(["red", "blue"]), "large" if size > age else "old"])
    return f"csv:{folder / 'rows.csv'}"


def schema_table(folder: Path) -> str:
    """Write the same table as a Parquet file."""
    from pyarrow import csv as table_reader
    from pyarrow import parquet

    _, _, file = table(folder).partition(":")
    parquet.write_table(table_reader.read_csv(file), folder / "rows.parquet")
    return f"parquet:{folder / 'rows.parquet'}"


USER_DATA: dict[str, Callable[[Path], str]] = {
    "image_folder": image_files,
    "text_folder": texts,
    "csv": table,
    "parquet": schema_table,
}
"""Functions that write data of the user's, by the reader of it."""

DOWNLOADED = {
    "fashion_mnist": {"channels": 1, "size": 28, "classes": 10},
    "kmnist": {"channels": 1, "size": 28, "classes": 10},
    "cifar10": {"channels": 3, "size": 32, "classes": 10},
    "cifar100": {"channels": 3, "size": 32, "classes": 100},
}
"""Shapes of data that needs a download: noise of the same shape replaces it. Other tests read the files."""
SAME_SHAPE = {"mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100"}
"""Data of the same shape as digits, or color images as those of ``image_folder``."""
SAME_CODE = {"names", "parquet"}
"""Data that becomes tokens by the same code as that of ``text_folder``, or numbers by that of ``csv``."""
ARGUMENTS = {"transformer": {"layers": 1}}
"""Arguments of networks whose usual ones take long to export, which their contract does."""
FIRST = ("mlp", "transformer")
"""Networks that together accept all data sets. Tests of the others are slow, since other tests cover their shapes."""


@pytest.fixture(scope="session")
def data_of(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], DataRef]:
    """Return a function that fetches a data set once."""
    cache: dict[str, DataRef] = {}

    def fetched(name: str) -> DataRef:
        if name not in cache:
            folder = tmp_path_factory.mktemp(name)
            if name in DOWNLOADED:
                cache[name] = toy_data(folder, train=400, test=TESTED, **DOWNLOADED[name])
            elif name in USER_DATA:
                cache[name] = fetch(USER_DATA[name](folder / "own"), folder / "cache")
            elif name == "digits":
                cache[name] = fetch(name, folder)
            else:
                datasets = request.getfixturevalue("datasets")
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("TORCHMILL_MIRROR", datasets.absolute().as_uri())
                    cache[name] = fetch(name, folder)
        return cache[name]

    return fetched


KINDS = {"names": "tokens", "text_folder": "tokens", "csv": "numbers", "parquet": "numbers"}
"""Kinds of the inputs that are not images, by data set."""
OF_LABELS = [name for name in dataset_names() if not DATASETS[name].constant("NAMED_FIELDS", False)]
"""Data sets of inputs with labels; tests/components/field_tasks covers those of named fields."""
PAIRS = [
    (network, name) for name in OF_LABELS for network in model_names() if KINDS.get(name, "images") in kinds(network)
]


def is_slow(network: str, name: str) -> bool:
    first = next(candidate for candidate in FIRST if (candidate, name) in PAIRS)
    return network != first or name in SAME_SHAPE | SAME_CODE


def test_every_data_set_has_a_network_and_every_network_a_data_set():
    assert {name for _, name in PAIRS} == set(OF_LABELS)
    assert {network for network, _ in PAIRS} == set(model_names())


@pytest.mark.parametrize(
    ("network", "name"),
    [
        pytest.param(network, name, id=f"{name}-{network}", marks=[pytest.mark.slow] * is_slow(network, name))
        for network, name in PAIRS
    ],
)
def test_a_network_trains_is_seeded_is_restored_and_is_exported(
    network: str, name: str, data_of: Callable[[str], DataRef], tmp_path: Path
):
    data = data_of(name)
    assert data.kind == KINDS.get(name, "images")
    sample = read_sample(data, 16, seed=0)
    inputs = standardized(sample, data)
    arguments = ARGUMENTS.get(network, {})
    built, again = (made(network, data, seed=1, **arguments) for _ in range(2))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in built.state_dict().items())

    loss = make_loss(TrainConfig(), data, sample)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = built.train()(inputs)
    assert outputs.shape == (16, len(data.classes))
    loss(outputs, sample.labels).backward()
    for parameter, tensor in built.named_parameters():
        assert tensor.grad is not None and tensor.grad.isfinite().all(), parameter
    built.zero_grad(set_to_none=True)

    count = sum(parameter.numel() for parameter in built.parameters())
    file = save_weights(built, tmp_path / "weights.safetensors")
    back = restore(
        NetworkRef(reference=network, arguments=arguments, weights=file, parameters=count), file, data
    ).eval()
    with torch.no_grad():
        assert torch.equal(back(inputs), built.eval()(inputs))

    test = read_test(data).first(TESTED)
    config = ExportConfig(batch_sizes=(1, 7, 64))
    back = with_different_answers(back, test, data)
    exported = export(back, replace_size(data, len(test)), test, config, {}, tmp_path)
    assert exported.agreement == 1
    if data.kind == "tokens":
        check_lengths(StandardizedModel.of(back, data).eval(), exported.onnx.path, data)


def replace_size(data: DataRef, tested: int) -> DataRef:
    return data.model_copy(update={"test_size": tested})


def check_lengths(model: StandardizedModel, file: Path, data: DataRef) -> None:
    session = open_session(file)
    tokens = len(read_vocabulary(data).tokens)
    rng = np.random.default_rng(0)
    for length in (1, 2, 5, data.shape[0]):
        batch = rng.integers(1, tokens, (3, length))
        (outputs,) = session.run(["logits"], {"tokens": batch})
        with torch.no_grad():
            np.testing.assert_allclose(outputs, model(torch.from_numpy(batch)).numpy(), rtol=1e-3, atol=1e-4)
