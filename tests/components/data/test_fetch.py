import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.components.data.toy_server import REPOSITORY
from torchmill.components import fields, files
from torchmill.components.data.fetch import fetch, names
from torchmill.components.errors import ConfigError, UserError
from torchmill.components.refs import FileRef

DOTS = '''
"""Dots: random dots in two colours. Licence: none needed."""
import os, signal, time
import numpy as np
from torchmill.components.data.splits import Split, Splits

CLASSES = ("few", "many")
SOURCE = "nowhere"

def load(downloads):
    with open({log!r}, "a") as log:
        log.write("loaded\\n")
    time.sleep({seconds})
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (30, 3, 5, 4)).astype(np.uint8)
    labels = np.arange(30) % 2
    return Splits(Split(images[:20], labels[:20]), Split(images[20:], labels[20:]))
'''

FILES = ["train_inputs.npy", "train_labels.npy", "test_inputs.npy", "test_labels.npy", "manifest.json"]


class Dots:
    """A folder with one data set, a cache and a log of its loads."""

    def __init__(self, folder: Path):
        self.datasets, self.cache, self.log = folder / "datasets", folder / "cache", folder / "log"
        self.datasets.mkdir()
        self.define()

    def define(self, change: tuple[str, str] = ("", ""), seconds: float = 0) -> None:
        text = DOTS.format(log=str(self.log), seconds=seconds).replace(*change)
        (self.datasets / "dots.py").write_text(text)

    def fetch(self):
        return fetch("dots", self.cache, self.datasets)

    def loaded(self) -> int:
        return len(self.log.read_text().split()) if self.log.exists() else 0

    def elsewhere(self) -> subprocess.Popen:
        code = (
            "import sys; from pathlib import Path; from torchmill.components.data.fetch import fetch;"
            "print(fetch('dots', Path(sys.argv[1]), Path(sys.argv[2])).sha256)"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, str(self.cache), str(self.datasets)],
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def dots(tmp_path):
    return Dots(tmp_path)


def test_the_data_sets_are_the_files_in_the_folder(tmp_path):
    assert {"digits", "mnist", "fashion_mnist", "kmnist"} <= set(names())
    for file in ("b.py", "a.py", "_not_me.py", "README.md"):
        (tmp_path / file).write_text("raise RuntimeError('imported')")
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("name", ["mnsit", "../mnist", ""])
def test_an_unknown_name_is_answered_with_known_ones(name, tmp_path):
    with pytest.raises(ConfigError, match=r"no data set called .*mnist"):
        fetch(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_data_set_comes_as_arrays_to_map_into_memory(dots):
    ref = dots.fetch()
    arrays = {path: np.load(ref.folder / path, mmap_mode="r", allow_pickle=False) for path in FILES[:4]}
    assert [(array.dtype, array.shape) for array in arrays.values()] == [
        (np.uint8, (20, 3, 5, 4)),
        (np.int64, (20,)),
        (np.uint8, (10, 3, 5, 4)),
        (np.int64, (10,)),
    ]
    assert all(array.flags.c_contiguous for array in arrays.values())
    assert (ref.name, ref.classes, ref.source) == ("dots", ("few", "many"), "nowhere")
    assert ref.shape == (3, 5, 4)
    assert (ref.train_size, ref.test_size) == (20, 10)
    assert ref.folder == dots.cache / "dots"


def test_the_second_time_everything_is_there(dots):
    assert dots.fetch() == dots.fetch()
    assert dots.loaded() == 1


def test_a_finished_cache_may_be_read_only(dots):
    ref = dots.fetch()
    before = {path: path.stat().st_mtime_ns for path in ref.folder.iterdir() if path.name != ".lock"}
    (ref.folder / ".lock").unlink()
    dots.fetch()
    assert {path: path.stat().st_mtime_ns for path in ref.folder.iterdir()} == before


def test_a_moved_cache_is_used(dots):
    ref = dots.fetch()
    dots.cache = dots.cache.rename(dots.cache.with_name("moved"))
    moved = dots.fetch()
    assert (moved.folder, moved.sha256) == (dots.cache / "dots", ref.sha256)
    assert dots.loaded() == 1


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    # Size and time as before: only the digest can tell.
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink], ids=["truncated", "changed", "missing"])
def test_damage_is_mended(dots, file, damage):
    ref = dots.fetch()
    good = {name: (ref.folder / name).read_bytes() for name in FILES}
    damage(ref.folder / file)
    assert dots.fetch() == ref
    assert {name: (ref.folder / name).read_bytes() for name in FILES} == good
    assert dots.loaded() == 2


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"format": 1}'])
def test_a_manifest_that_is_none_is_made_anew(dots, manifest):
    ref = dots.fetch()
    (ref.folder / "manifest.json").write_text(manifest)
    assert dots.fetch() == ref


def test_a_changed_definition_is_prepared_anew(dots):
    dots.fetch()
    dots.define(change=('"few"', '"some"'))
    assert dots.fetch().classes == ("some", "many")
    assert dots.loaded() == 2


def test_a_new_array_leaves_the_old_one_to_those_who_have_it_mapped(dots):
    ref = dots.fetch()
    mapped = np.load(ref.folder / "train_inputs.npy", mmap_mode="r")
    before = mapped.copy()
    dots.define(change=("RandomState(0)", "RandomState(1)"))
    assert dots.fetch().sha256 != ref.sha256
    assert (mapped == before).all()


def test_two_processes_at_once_prepare_once(dots):
    dots.define(seconds=0.5)
    children = [dots.elsewhere() for _ in range(2)]
    answers = [child.communicate(timeout=30)[0] for child in children]
    assert answers[0] == answers[1] != ""
    assert dots.loaded() == 1


def test_a_process_killed_before_the_manifest_leaves_nothing_that_counts(dots):
    dots.fetch()
    # SOURCE is read after the arrays are written.
    killing = "def __getattr__(name):\n    if name == 'SOURCE': os.kill(os.getpid(), signal.SIGKILL)"
    dots.define(change=('SOURCE = "nowhere"', killing))
    child = dots.elsewhere()
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    assert not (dots.cache / "dots" / "manifest.json").exists()
    dots.define()
    assert dots.fetch().source == "nowhere"
    assert dots.loaded() == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("astype(np.uint8)", "astype(float)"), "train inputs are float64"),
        (("(30, 3, 5, 4)", "(30, 20)"), "not uint8 \\(N, C, H, W\\)"),
        (("labels[:20]", "labels[:19]"), "train labels are int64 \\(19,\\)"),
        (("labels[20:]", "labels[20:] + 1"), "test labels go from 1 to 2, with 2 classes"),
        (("images[20:]", "images[20:, :1]"), "inputs of \\(1, 5, 4\\) and \\(3, 5, 4\\)"),
        (("images[20:]", "images[30:]"), "test inputs are uint8 \\(0, 3, 5, 4\\)"),
    ],
)
def test_malformed_arrays_are_refused_by_name(dots, change, words):
    dots.define(change=change)
    with pytest.raises(UserError, match=f"dots is malformed: .*{words}"):
        dots.fetch()
    assert not (dots.cache / "dots" / "manifest.json").exists()


def test_a_cache_that_cannot_be_written_to_is_explained(dots):
    dots.cache.write_text("a file where a folder is needed")
    with pytest.raises(UserError, match="Cannot write"):
        dots.fetch()


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path):
    with (
        pytest.raises(UserError, match=r"Cannot write .*: No space left on device, about 47\.0 MB more are needed"),
        files.new_file(tmp_path / "array.npy", 47_000_000) as file,
    ):
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_statistics_are_those_of_the_pixels():
    images = np.random.RandomState(0).randint(0, 256, (5000, 2, 3, 3)).astype(np.uint8)
    mean, std = fields.field("images").statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-12)


def test_the_digits_need_neither_torch_nor_scikit_learn_nor_a_network(tmp_path):
    code = (
        "import sys; from pathlib import Path; from torchmill.components.data.fetch import fetch;"
        "fetch('digits', Path(sys.argv[1]));"
        "print({'torch', 'torchvision', 'sklearn', 'mlflow', 'prefect'} & set(sys.modules))"
    )
    environment = dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def test_mnist_from_a_mirror_is_mnist_and_is_mended_from_its_downloads(tmp_path, monkeypatch):
    folder = Path(os.environ.get("TORCHMILL_TEST_DATASETS") or REPOSITORY.parent / "shared" / "datasets")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no MNIST files in {folder}: set TORCHMILL_TEST_DATASETS")
    monkeypatch.setenv("TORCHMILL_MIRROR", folder.absolute().as_uri())
    ref = fetch("mnist", tmp_path)
    assert (ref.shape, ref.train_size, ref.test_size) == ((1, 28, 28), 60_000, 10_000)
    assert [round(*pair) for pair in ((ref.mean[0], 4), (ref.std[0], 4))] == [0.1307, 0.3081]
    labels = np.load(ref.folder / "test_labels.npy")
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]

    truncate(ref.folder / "test_labels.npy")
    truncate(ref.folder / "downloads" / "t10k-labels-idx1-ubyte.gz")
    intact = ref.folder / "downloads" / "train-images-idx3-ubyte.gz"
    before = FileRef.of(intact), intact.stat().st_ino
    assert fetch("mnist", tmp_path) == ref
    assert (FileRef.of(intact), intact.stat().st_ino) == before
