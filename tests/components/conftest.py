import contextlib
import copy
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.export_cache import ExportCache
from tests.toy import made, toy_data
from torchmill.components.data.samples import Samples, read_test, read_training
from torchmill.components.evaluation.evaluate import evaluate
from torchmill.components.refs import DataRef, EvaluationRef
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.setup import TrainingSetup

# The networks are small: threads that wait for each other on a busy machine cost more than they give.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def export_cache() -> Iterator[ExportCache]:
    """Exports that tests share; tests of torch's export itself use ``fresh_export``."""
    cache = ExportCache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", cache.export)
        yield cache


@pytest.fixture
def fresh_export(export_cache: ExportCache) -> Iterator[None]:
    with export_cache.off():
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> DataRef:
    return toy_data(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy_test(toy: DataRef) -> Samples:
    return read_test(toy)


@pytest.fixture(scope="session")
def _trained(toy: DataRef, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    network = made("simple_cnn", toy)
    training, validation = read_training(toy.with_split(0.2, seed=0))
    folder = tmp_path_factory.mktemp("trained")
    checkpoints, best = Checkpoints(folder / "checkpoints", 30), folder / "best.safetensors"
    config = TrainConfig(epochs=1, batch_size=32)
    list(fit(TrainingSetup(network, training, validation, toy, config, torch.device("cpu"), 0), checkpoints, best))
    return network


@pytest.fixture
def trained(_trained: nn.Module) -> nn.Module:
    """A SimpleCNN after one epoch on the toy data: good, not perfect. A copy for each test."""
    return copy.deepcopy(_trained)


@pytest.fixture(scope="session")
def evaluated(
    _trained: nn.Module, toy: DataRef, toy_test: Samples, tmp_path_factory: pytest.TempPathFactory
) -> EvaluationRef:
    """Evaluation of the trained network, with its files; to look at, not to change."""
    network = copy.deepcopy(_trained)
    return evaluate(network, toy_test, toy, torch.device("cpu"), 64, tmp_path_factory.mktemp("evaluated"))


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., str]:
    """Write somebody's own network into a file; gives the reference to a class in it."""

    def write(text: str, name: str = "Own", file: str = "own_network.py") -> str:
        (tmp_path / file).write_text(f"import torch\nfrom torch import nn\n\n{text}\n")
        return f"{tmp_path / file}:{name}"

    return write


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Limit the size of files that may be written, as a full disk does."""

    @contextlib.contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
