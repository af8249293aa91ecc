"""Fields from files: arrays, images with masks, and texts in CoNLL's columns."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchmill.components.data.config import DataConfig
from torchmill.components.data.datasets import arrays, conll, masks
from torchmill.components.data.fetch import arguments, fetch
from torchmill.components.data.field_samples import read_fields
from torchmill.components.data.inspection.inspect_fields import inspect_fields
from torchmill.components.data.origins import read_origins
from torchmill.components.data.summary import summary
from torchmill.components.errors import UserError
from torchmill.components.field_tasks.choice import for_task
from torchmill.components.field_tasks.config import TaskConfig

RNG = np.random.default_rng(0)


def some(count: int) -> dict[str, np.ndarray]:
    return {
        "image": RNG.integers(0, 255, (count, 8, 8, 3)).astype(np.uint8),
        "mask": RNG.integers(0, 3, (count, 8, 8)),
    }


def test_the_arrays_of_a_file_are_fields(tmp_path):
    np.savez(tmp_path / "scans.npz", **some(40))
    data = fetch(f"arrays:{tmp_path}/scans.npz", tmp_path / "cache")
    assert [field.words() for field in data.field_refs] == ["image (image, uint8 3x8x8)", "mask (mask, uint8 8x8)"]
    assert data.train_size + data.test_size == 40


def test_splits_are_told_by_the_names_of_arrays_folders_or_files(tmp_path):
    parts = {"train": some(20), "test": some(10)}
    np.savez(
        tmp_path / "one.npz", **{f"{name}_{split}": v for split, part in parts.items() for name, v in part.items()}
    )
    (tmp_path / "files").mkdir()
    (tmp_path / "loose").mkdir()
    for split, part in parts.items():
        (tmp_path / "folders" / split).mkdir(parents=True)
        np.savez(tmp_path / "files" / f"{split}.npz", **part)
        for name, values in part.items():
            np.save(tmp_path / "folders" / split / f"{name}.npy", values)
            np.save(tmp_path / "loose" / f"{split}_{name}.npy", values)
    for place in ("one.npz", "files", "folders", "loose"):
        splits = arrays.load(tmp_path / place)
        assert {split: len(part["image"]) for split, part in splits.arrays.items()} == {"train": 20, "test": 10}, place
        assert (splits.arrays["test"]["mask"] == parts["test"]["mask"]).all()


def test_arrays_have_targets_and_groups_and_are_cut_in_order(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        x=np.arange(50.0),
        next=np.arange(50.0) + 1,
        patient=np.arange(50) // 5,
        kind=["a", "b"] * 25,
    )
    splits = arrays.load(tmp_path / "x.npz", targets="next, kind", groups="patient")
    assert [field.name for field in splits.fields if field.is_target] == ["next", "kind"]
    assert splits.fields[2].names == ("a", "b")
    assert not set(splits.arrays["train"]["x"] // 5) & set(splits.arrays["test"]["x"] // 5)
    config = DataConfig(name=f"arrays:{tmp_path}/x.npz", args={"targets": "next, kind"}, split="last")
    data = fetch(config.name, tmp_path / "cache", args=arguments(config))
    assert read_fields(data, "validation").fields["x"].tolist() == [36, 37, 38, 39]
    assert read_fields(data, "test").fields["x"].tolist() == [*range(40, 50)]


def test_faulty_arrays_are_told(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.arange(5.0), y=np.arange(4))
    with pytest.raises(UserError, match="different numbers of samples: x 5, y 4"):
        arrays.load(tmp_path / "x.npz")
    with pytest.raises(UserError, match="no array 'pateint' of groups"):
        arrays.load(tmp_path / "x.npz", groups="pateint")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "readme.txt").touch()
    with pytest.raises(UserError, match=r"has no arrays: it has readme\.txt"):
        arrays.load(folder)
    np.save(folder / "a.npy", np.array([{}, {}]), allow_pickle=True)
    (folder / "b.npy").write_bytes(b"")
    np.save(folder / "c.npy", np.float32(3))
    with pytest.raises(UserError, match=r"a\.npy can't be read: holds Python objects.*b\.npy can't be read.*single"):
        arrays.load(folder)


def save(place: Path, pixels: np.ndarray) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(place)


@pytest.fixture
def scans(tmp_path) -> Path:
    """Twelve pictures of two sizes, with a square whose class is its grey level in the mask."""
    for number in range(12):
        side = 40 if number % 2 else 32
        pixels, mask = RNG.integers(0, 99, (side, side, 3)), np.zeros((side, side))
        pixels[:16, :16], mask[:16, :16] = 200, 1 + number % 2
        save(tmp_path / "images" / f"scan{number}.png", pixels)
        save(tmp_path / "masks" / f"scan{number}.png", mask)
    return tmp_path


def test_images_and_masks_of_one_name_are_pairs_of_one_size(scans, tmp_path):
    data = fetch(f"masks:{scans}", tmp_path / "cache", args={"classes": "ground, first, second"})
    image, mask = data.field_refs
    assert image.words() == "image (image, uint8 3x32x32)" and mask.words() == "mask (mask, uint8 32x32)"
    assert mask.names == ("ground", "first", "second")
    for split in ("train", "test"):
        values, classes = (np.load(data.folder / f"{split}_{name}.npy") for name in ("image", "mask"))
        assert set(np.unique(classes)) <= {0, 1, 2}
        bright = values.min(1) > 150  # resized images are blurred at the edge, masks are not
        assert (bright == (classes > 0)).mean() > 0.97
    names = {name for split in ("train", "test") for name in read_origins(data.folder, split, range(12)).values()}
    assert names == {f"scan{number}" for number in range(12)}
    assert "images of 2 sizes: their middle squares become 32x32 pixels" in "\n".join(summary(data))


def test_masks_of_0_and_255_have_two_classes(tmp_path):
    for number in range(6):
        for split in ("train", "test"):
            save(tmp_path / split / "images" / f"{number}.jpg", RNG.integers(0, 255, (16, 24)))
            save(tmp_path / split / "masks" / f"{number}_mask.png", 255 * (RNG.random((16, 24)) > 0.5))
    splits = masks.load(tmp_path)
    assert splits.fields[1].size == 2 and splits.fields[0].shape == (1, 16, 24)
    assert any("255 is taken as class 1" in note for note in splits.notes)
    assert splits.origins["test"] == [str(number) for number in range(6)]


def test_the_places_of_a_palette_are_classes_and_255_is_ignored(tmp_path):
    for number in range(8):
        save(tmp_path / "images" / "train" / f"{number}.png", RNG.integers(0, 255, (16, 16)))
        mask = np.full((16, 16), 2, np.uint8)
        mask[0] = 255
        picture = Image.fromarray(mask).convert("P")
        picture.putdata(mask.ravel().tolist())
        picture.putpalette(RNG.integers(0, 255, 768).tolist())
        (tmp_path / "masks" / "train").mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "masks" / "train" / f"{number}.png")
    splits = masks.load(tmp_path)
    assert np.unique(splits.arrays["train"]["mask"]).tolist() == [2, 255]
    assert splits.fields[1].size == 3


def test_pairs_that_are_none_are_named_at_once(scans):
    (scans / "masks" / "scan3.png").rename(scans / "masks" / "other.png")
    with pytest.raises(UserError, match=r"1 of 12 in .*images have no mask: scan3; 1 of 12 in .*no image: other"):
        masks.load(scans)
    (scans / "masks" / "other.png").rename(scans / "masks" / "scan3.png")
    save(scans / "masks" / "scan1.png", np.zeros((9, 9)))
    (scans / "images" / "scan2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"scan1\.png has 40x40 pixels, and its mask 9x9; .*scan2\.png is no image"):
        masks.load(scans)


def test_masks_in_colours_and_missing_folders_are_told(scans, tmp_path):
    save(scans / "masks" / "scan4.png", RNG.integers(0, 255, (32, 32, 3)))
    with pytest.raises(UserError, match=r"scan4\.png holds colours: write the class of each pixel"):
        masks.load(scans)
    with pytest.raises(UserError, match="has no folders images and masks"):
        masks.load(scans / "images")
    with pytest.raises(UserError, match="There is no folder"):
        masks.load(tmp_path / "missing")
    with pytest.raises(UserError, match="holds class 2, and 'names' has 2"):
        save(scans / "masks" / "scan4.png", np.zeros((32, 32)))
        masks.load(scans, classes=["ground", "first"])


CONLL = """-DOCSTART- -X- O O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# NN B-NP O

Anna NNP B-NP B-PER
lives VBZ B-VP O
"""


def test_the_columns_of_conll_are_tokens_and_labels(tmp_path):
    for name in ("train.txt", "dev.txt", "test.txt"):
        (tmp_path / name).write_text(CONLL)
    splits = conll.load(tmp_path)
    assert splits.arrays.keys() == {"train", "validation", "test"}
    tokens, labels, _ = splits.fields
    assert labels.names == ("O", "B-ORG", "B-PER") and tokens.ragged
    assert splits.arrays["train"]["labels"].tolist() == [[1, 0, 0], [2, 0, 0]]
    assert splits.arrays["train"]["lengths"].tolist() == [3, 2]
    assert splits.origins["test"] == ["test.txt line 3", "test.txt line 7"]
    assert conll.load(tmp_path, label=1).fields[1].names == ("NN", "NNP", "VBZ")
    assert set(conll.load(tmp_path, token=1).fields[0].names[2:]) == {"NNP", "VBZ"}


def test_the_inspection_shows_words_and_labels(tmp_path):
    (tmp_path / "all.conll").write_text("\n\n".join(f"Anna B-PER\nsaw O\nnumber{n} O" for n in range(50)))
    data = fetch(f"conll:{tmp_path}/all.conll", tmp_path / "cache")
    assert for_task(data, TaskConfig()).goal.reference == "token_labels"
    inspect_fields(data, tmp_path / "inspection")
    shown = (tmp_path / "inspection" / "samples.txt").read_text()
    assert "\n  Anna saw <unknown>\n" in shown and "\n  B-PER O O\n" in shown


def test_one_file_is_cut_into_splits(tmp_path):
    file = tmp_path / "all.conll"
    file.write_text("\n\n".join(f"word{n % 40}\tX\nends\tY" for n in range(200)))
    splits = conll.load(file)
    assert splits.arrays.keys() == {"train", "validation", "test"}
    words = {name: {row[0] for row in part["tokens"].tolist()} for name, part in splits.arrays.items()}
    assert len(splits.origins["test"]) == len(splits.arrays["test"]["tokens"])
    assert all(name.startswith("all.conll line ") for name in splits.origins["test"])
    assert words["test"] == {1}  # of other words than training, hence unknown


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (CONLL + "a b\nc\n", {}, "line 3 has 4 columns; line 9 has 2, line 10 has 1"),
        (CONLL, {"label": 7}, "line 3 has 4 columns, and no column 7"),
        ("one\ntwo\n", {}, "has one column alone"),
        ("\n\n", {}, "has no tokens"),
    ],
)
def test_faulty_columns_are_told_with_their_lines(tmp_path, content, arguments, message):
    (tmp_path / "x.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        conll.load(tmp_path / "x.txt", **arguments)


def test_files_of_splits_are_clear(tmp_path):
    (tmp_path / "a.txt").write_text(CONLL)
    with pytest.raises(UserError, match=r"has no file called train; it has a\.txt"):
        conll.load(tmp_path)
    for name in ("train.txt", "train.conll"):
        (tmp_path / name).write_text(CONLL)
    with pytest.raises(UserError, match=r"has train\.conll, train\.txt, all for train"):
        conll.load(tmp_path)
