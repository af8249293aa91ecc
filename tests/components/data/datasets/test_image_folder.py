"""A folder of images becomes arrays, whatever their formats; unreadable files are reported."""

import io
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchmill.components.data.fetch import fetch
from torchmill.components.errors import UserError
from torchmill.flows.logs import clean

RNG = np.random.RandomState(0)


def photo(size=(24, 24), channels=3) -> Image.Image:
    """Smooth, as photographs are."""
    small = RNG.randint(0, 256, (4, 4, 3) if channels == 3 else (4, 4)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def fill(root: Path, classes=("a", "b"), each=6, ending="png", **look) -> Path:
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(each):
            photo(**look).save(root / name / f"{number}.{ending}")
    return root


def load(root: Path, tmp_path: Path, **args):
    ref = fetch(f"image_folder:{root}", tmp_path / "cache", args=args)
    arrays = {file.stem: np.load(file) for file in ref.folder.glob("*.npy")}
    return ref, arrays


def test_one_folder_is_split_with_about_the_same_share_of_each_class(tmp_path):
    ref, arrays = load(fill(tmp_path / "own", ("10", "9", "b"), 10), tmp_path)
    assert (ref.kind, ref.shape, ref.classes) == ("images", (3, 24, 24), ("9", "10", "b"))
    assert np.bincount(arrays["test_labels"]).tolist() == [2, 3, 3]
    assert np.bincount(arrays["train_labels"]).tolist() == [8, 7, 7]
    assert sorted(file.name for file in ref.folder.iterdir()) == [
        ".lock",
        "manifest.json",
        "test_digests.npy",
        "test_inputs.npy",
        "test_labels.npy",
        "test_origins.txt",
        "train_digests.npy",
        "train_inputs.npy",
        "train_labels.npy",
        "train_origins.txt",
    ]


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
def test_splits_that_are_there_are_kept(tmp_path, validation):
    for split in ("train", validation, "test"):
        fill(tmp_path / "own" / split, each=3)
    ref, _ = load(tmp_path / "own", tmp_path)
    assert (ref.train_size, ref.validation_size, ref.test_size) == (6, 6, 6)


def test_a_class_may_be_called_train(tmp_path):
    assert load(fill(tmp_path / "own", ("car", "train", "plane")), tmp_path)[0].classes == ("car", "plane", "train")


def test_the_pixels_are_those_of_the_files(tmp_path):
    root = fill(tmp_path / "own")
    _, arrays = load(root, tmp_path)
    held = {image.tobytes() for image in (*arrays["train_inputs"], *arrays["test_inputs"])}
    assert held == {np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in root.rglob("*.png")}


def test_equal_files_stay_on_one_side_and_the_order_of_writing_does_not_matter(tmp_path):
    files = {f"{name}/{number}.png": photo() for name in "ab" for number in range(8)}
    files |= {f"{key[:-4]}_copy.png": picture for key, picture in files.items()}
    made = []
    for place, order in (("one", sorted(files)), ("two", sorted(files, reverse=True))):
        for key in order:
            (tmp_path / place / key).parent.mkdir(parents=True, exist_ok=True)
            files[key].save(tmp_path / place / key)
        made.append(load(tmp_path / place, tmp_path)[1])
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])
    train = {image.tobytes() for image in made[0]["train_inputs"]}
    assert not train & {image.tobytes() for image in made[0]["test_inputs"]}


def one_of_each(make) -> None:
    make("rgba.png", Image.new("RGBA", (20, 20), (255, 0, 0, 0)))
    make("la.png", Image.new("LA", (20, 20), (0, 0)))
    make("palette.gif", photo((20, 20)).convert("P"))
    make("bits.png", Image.new("1", (20, 20), 1))
    make("cmyk.jpg", photo((20, 20)).convert("CMYK"))
    make("deep.png", Image.fromarray(np.full((20, 20), 0x80FF, np.uint16)))


def test_all_modes_are_read(tmp_path):
    root = fill(tmp_path / "own", each=2, size=(20, 20))
    one_of_each(lambda name, image: image.save(root / "a" / name))
    ref, arrays = load(root, tmp_path, test_fraction=0.01)
    assert ref.shape == (3, 20, 20)
    held = np.concatenate([arrays["train_inputs"], arrays["test_inputs"]])
    plain = [int(image[0, 0, 0]) for image in held if image.min() == image.max()]
    assert sorted(plain) == [0x80, 255, 255, 255]  # 16 bits, then transparent and white


def test_an_image_stands_as_its_camera_says(tmp_path):
    root = fill(tmp_path / "own", size=(20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = photo((30, 20))
    picture.save(root / "a" / "turned.jpg", exif=exif, quality=95)
    ref, arrays = load(root, tmp_path, test_fraction=0.01)
    assert ref.shape == (3, 30, 20)
    upright = np.asarray(picture.rotate(-90, expand=True)).transpose(2, 0, 1).astype(int)
    held = np.concatenate([arrays["train_inputs"], arrays["test_inputs"]]).astype(int)
    assert np.abs(held - upright).mean((1, 2, 3)).min() < 8


def test_sizes_that_differ_are_brought_to_one(tmp_path, caplog):
    root = fill(tmp_path / "own", size=(40, 60))
    photo((64, 44)).save(root / "b" / "other.png")
    with caplog.at_level(logging.INFO, "torchmill"):
        assert load(root, tmp_path)[0].shape == (3, 40, 40)
    assert "resized to 40 pixels" in caplog.text
    assert load(root, tmp_path, image_size=16)[0].shape == (3, 16, 16)


def test_colours_are_as_stored_or_as_wanted(tmp_path):
    root = fill(tmp_path / "own", channels=1)
    assert load(root, tmp_path)[0].shape[0] == 1
    assert load(root, tmp_path, colors="rgb")[0].shape[0] == 3


def test_few_unreadable_files_are_left_out_and_reported(tmp_path, caplog):
    root = fill(tmp_path / "own", each=40)
    whole = (root / "a" / "0.png").read_bytes()
    (root / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "1.png").write_bytes(b"")
    (root / "b" / "2.png").write_bytes(b"no image")
    ref, arrays = load(root, tmp_path)
    assert ref.train_size + ref.test_size == 77
    assert (len(arrays["train_inputs"]), len(arrays["test_inputs"])) == (ref.train_size, ref.test_size)
    told = (ref.folder / "unreadable.txt").read_text()
    assert len(told.splitlines()) == 3 and "is empty" in told and "is no image" in told and "truncated" in told
    warning = next(record for record in caplog.records if "3 of 80 images can't be read" in record.getMessage())
    clean(warning)
    assert len(warning.getMessage().splitlines()) == 5, "a line for each file"
    assert any("3 unreadable images are left out" in note for note in ref.notes)
    assert not [file for file in ref.folder.iterdir() if file.name.startswith(".") and file.name != ".lock"]


def test_many_unreadable_files_stop_it_and_all_are_named(tmp_path):
    root = fill(tmp_path / "own")
    for number in range(3):
        (root / "a" / f"{number}.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"3 of 12 images can't be read (.|\n)*2.png: is no image\nMore than 5 %"):
        load(root, tmp_path)
    allowed, _ = load(root, tmp_path, unreadable_share=0.25)
    assert allowed.train_size + allowed.test_size == 9
    for file in (root / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="None is left of train b"):
        load(root, tmp_path)


def test_a_bomb_is_not_decoded(tmp_path):
    root = fill(tmp_path / "own", each=30)
    Image.new("1", (20_000, 20_000)).save(root / "a" / "bomb.png")
    Image.new("L", (9_000, 9_000)).save(root / "b" / "bomb.png")
    ref, _ = load(root, tmp_path)
    assert ref.train_size + ref.test_size == 60
    assert "9,000 × 9,000 pixels" in (ref.folder / "unreadable.txt").read_text()


def test_files_without_an_image_suffix_are_left_out_quietly(tmp_path, caplog):
    root = fill(tmp_path / "own")
    for name in ("Thumbs.db", ".DS_Store", "notes.txt", ".hidden.png"):
        (root / "a" / name).write_text("x")
    (root / ".git").mkdir()
    (root / "a" / "broken.txt").symlink_to("nowhere")
    with caplog.at_level(logging.INFO, "torchmill"):
        ref, _ = load(root, tmp_path)
    assert ref.train_size + ref.test_size == 12
    assert "2 files left out, which are no images by their names: 2 .txt" in caplog.text
    assert "left out, no images by their names: 2 .txt" in ref.notes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "There is no folder"),
        (lambda root: root.write_bytes(b""), "is a file, not a folder"),
        (lambda root: root.mkdir(), "There are no class folders"),
        (lambda root: fill(root, ("a",)), "one class alone"),
        (lambda root: (root / "a").mkdir(parents=True) or (root / "b").mkdir(), "The class 'a' has no images"),
        (lambda root: fill(root / "test") and fill(root / "val"), "has test and val, but no train"),
        (lambda root: fill(root / "train") and (root / "test").mkdir(), "no class folders in .*test"),
        (lambda root: fill(root / "train") and fill(root / "test", ("a", "c")), "a class that train does not have: c"),
        (lambda root: fill(root, each=1), "too few images"),
    ],
)
def test_a_folder_that_is_wrong_is_refused_in_words(tmp_path, make, words):
    make(tmp_path / "own")
    with pytest.raises(UserError, match=words):
        load(tmp_path / "own", tmp_path)


@pytest.mark.parametrize("args", [{"image_size": 0}, {"colors": "blue"}, {"test_fraction": 1.5}])
def test_arguments_that_are_wrong_are_refused(tmp_path, args):
    with pytest.raises(UserError, match=next(iter(args))):
        load(fill(tmp_path / "own"), tmp_path, **args)


def test_a_failure_keeps_the_prepared_data(tmp_path):
    root = fill(tmp_path / "own")
    ref, before = load(root, tmp_path)
    broken = root / "a" / "0.png"
    good, times = broken.read_bytes(), broken.stat()
    broken.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError):
        load(root, tmp_path)
    assert not [file for file in ref.folder.iterdir() if "decoded" in file.name]
    assert all(np.array_equal(np.load(ref.folder / f"{name}.npy"), array) for name, array in before.items())
    broken.write_bytes(good)
    os.utime(broken, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(root, tmp_path)[0] == ref


def test_a_full_disk_is_an_error_in_words(tmp_path, small_disk):
    root = fill(tmp_path / "own")
    with small_disk(4096), pytest.raises(UserError, match=r"Cannot write .*File too large"):
        load(root, tmp_path)


@pytest.mark.slow
def test_mnist_as_files_is_mnist(tmp_path, datasets, monkeypatch):
    monkeypatch.setenv("TORCHMILL_MIRROR", datasets.as_uri())
    mnist = fetch("mnist", tmp_path / "cache")
    for split in ("train", "test"):
        images, labels = (np.load(mnist.folder / f"{split}_{what}.npy") for what in ("inputs", "labels"))
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "png" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()
            Image.fromarray(image[0]).save(content, "PNG", compress_level=1)
            (folder / f"{number}.png").write_bytes(content.getvalue())
    ref, arrays = load(tmp_path / "png", tmp_path)
    assert (ref.classes, ref.mean, ref.std) == (mnist.classes, mnist.mean, mnist.std)
    for split in ("train", "test"):
        labels = np.load(mnist.folder / f"{split}_labels.npy")
        order = np.argsort(labels, kind="stable")
        assert np.array_equal(np.load(mnist.folder / f"{split}_inputs.npy")[order], arrays[f"{split}_inputs"])
        assert np.array_equal(labels[order], arrays[f"{split}_labels"])
