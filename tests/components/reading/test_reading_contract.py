"""Contract: a network is trained on the very inputs that ``predict`` reads, for every form of file and every source."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image, ImageOps

from tests.onnx_files import bag_of_letters, linear
from tests.slow import slow_but
from torchmill.components import fields
from torchmill.components.data.fetch import fetch
from torchmill.components.data.formats.image_files import read_pixels
from torchmill.components.errors import UserError
from torchmill.components.evaluation.other_data import as_trained
from torchmill.components.export.pre_and_post import plain
from torchmill.components.onnx_model.model import open_model
from torchmill.components.onnx_model.run import answers
from torchmill.components.onnx_model.session import open_session
from torchmill.components.prediction.inputs import gather
from torchmill.components.reading.rules import ReadingRules
from torchmill.components.refs import DataRef

SIDES = (12, 20)
"""Height and width; unequal, so that a turned picture shows."""

RNG = np.random.default_rng(0)


def grey(top: int = 255, dtype: type = np.uint8) -> np.ndarray:
    """A picture with a gradient and some noise, so that turning, inverting and scaling it show."""
    down, right = np.mgrid[0 : SIDES[0], 0 : SIDES[1]]
    shares = (down / SIDES[0] + right / SIDES[1]) / 2
    return (np.clip(shares * 0.8 + RNG.uniform(0, 0.15, SIDES), 0, 1) * top).astype(dtype)


def stack(count: int, top: int = 255, dtype: type = np.uint8) -> np.ndarray:
    return np.stack([grey(top, dtype) for _ in range(count)], -1)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(stack(3)), kind, exif=exif)


def png_16(levels: np.ndarray, color_type: int) -> bytes:
    """Return a PNG of 16 bits per channel, which Pillow can't write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = levels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(levels: np.ndarray, photometric: int, extra: int | None = None, orientation: int = 1) -> bytes:
    """Return an uncompressed TIFF with one strip, with tags that Pillow doesn't write.

    Args:
        extra: meaning of the fourth channel: 0 unspecified, 1 and 2 opacity; None if the file doesn't say.
    """
    height, width = levels.shape[:2]
    channels = levels.shape[2] if levels.ndim == 3 else 1
    data = np.ascontiguousarray(levels).tobytes()
    tags = {256: [width], 257: [height], 258: [8 * levels.itemsize] * channels, 259: [1], 262: [photometric]}
    tags |= {273: [8], 274: [orientation], 277: [channels], 278: [height], 279: [len(data)]}
    tags |= {338: [extra]} if extra is not None else {}
    after = 8 + len(data) + 2 + 12 * len(tags) + 4
    directory, tail = struct.pack("<H", len(tags)), b""
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, tail = struct.pack("<I", after + len(tail)), tail + packed
        directory += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4) + tail


def opaque_inside(colors: np.ndarray, full: int = 255) -> np.ndarray:
    """Return colours with an opacity that is full in the middle, half around it, and none at the rim."""
    opacity = np.zeros(SIDES, colors.dtype)
    opacity[2:-2, 2:-2], opacity[4:-4, 4:-4] = full // 2, full
    return np.dstack([colors, opacity])


def palette(transparent: bool) -> Image.Image:
    image = Image.fromarray(stack(3)).quantize(16)
    if transparent:
        image.info["transparency"] = 3
    return image


def frames(kind: str) -> bytes:
    pages = [Image.fromarray(stack(3)) for _ in range(3)]
    return saved(pages[0], kind, save_all=True, append_images=pages[1:])


def netpbm(magic: str, levels: np.ndarray, top: int) -> bytes:
    header = f"{magic}\n{SIDES[1]} {SIDES[0]}\n{top}\n".encode()
    return header + levels.astype(">u2" if top > 255 else "u1").tobytes()


PICTURES: dict[str, Callable[[], bytes]] = {
    "grey.png": lambda: saved(Image.fromarray(grey()), "PNG"),
    "color.png": lambda: saved(Image.fromarray(stack(3)), "PNG"),
    "bits.png": lambda: saved(Image.fromarray(grey() > 90), "PNG"),
    "palette.png": lambda: saved(palette(False), "PNG"),
    "palette_transparent.png": lambda: saved(palette(True), "PNG", transparency=3),
    "opacity.png": lambda: saved(Image.fromarray(opaque_inside(stack(3))), "PNG"),
    "white_icon.png": lambda: saved(Image.fromarray(opaque_inside(250 - stack(3) // 40)), "PNG"),
    "grey_opacity.png": lambda: saved(Image.fromarray(opaque_inside(grey())), "PNG"),
    "transparent_color.png": lambda: saved(Image.fromarray(stack(3)), "PNG", transparency=(9, 9, 9)),
    "bits_12.png": lambda: saved(Image.fromarray(grey(4095, np.uint16)), "PNG"),
    "bits_16.png": lambda: saved(Image.fromarray(grey(65535, np.uint16)), "PNG"),
    "color_12.png": lambda: png_16(stack(3, 4095, np.uint16), 2),
    "grey_opacity_16.png": lambda: png_16(opaque_inside(grey(65535, np.uint16), 65535), 4),
    "opacity_12.png": lambda: png_16(opaque_inside(stack(3, 4095, np.uint16), 65535), 6),
    "turned.png": lambda: turned("PNG", 8),
    "color.jpg": lambda: saved(Image.fromarray(stack(3)), "JPEG"),
    "grey.jpg": lambda: saved(Image.fromarray(grey()), "JPEG"),
    "cmyk.jpg": lambda: saved(Image.fromarray(stack(3)).convert("CMYK"), "JPEG"),
    **{f"turned_{number}.jpg": lambda number=number: turned("JPEG", number) for number in range(2, 9)},
    "turned.webp": lambda: turned("WEBP", 6),
    "opacity.webp": lambda: saved(Image.fromarray(opaque_inside(stack(3))), "WEBP", lossless=True),
    "color.bmp": lambda: saved(Image.fromarray(stack(3)), "BMP"),
    "frames.gif": lambda: frames("GIF"),
    "frames.png": lambda: frames("PNG"),
    "frames.webp": lambda: frames("WEBP"),
    "pages.tiff": lambda: frames("TIFF"),
    "color.tiff": lambda: saved(Image.fromarray(stack(3)), "TIFF"),
    "turned.tiff": lambda: tiff(stack(3), 2, orientation=6),
    "turned_16.tiff": lambda: tiff(grey(4095, np.uint16), 1, orientation=6),
    "turned_color_16.tiff": lambda: tiff(stack(3, 4095, np.uint16), 2, orientation=8),
    "white_is_zero.tiff": lambda: tiff(grey(), 0),
    "white_is_zero_16.tiff": lambda: tiff(grey(65535, np.uint16), 0),
    "white_is_zero_12.tiff": lambda: tiff(grey(4095, np.uint16), 0),
    "fax.tiff": lambda: saved(Image.fromarray(grey() > 90), "TIFF", compression="group4"),
    "lzw_16.tiff": lambda: saved(Image.fromarray(grey(65535, np.uint16)), "TIFF", compression="tiff_lzw"),
    "bands.tiff": lambda: tiff(stack(4), 2, 0),
    "bands_undeclared.tiff": lambda: tiff(stack(4), 2),
    "bands_as_opacity.tiff": lambda: tiff(stack(4), 2, 2),
    "bands_12.tiff": lambda: tiff(stack(4, 4095, np.uint16), 2, 0),
    "bands_lzw.tiff": lambda: saved(Image.fromarray(stack(4)), "TIFF", compression="tiff_lzw"),
    "opacity.tiff": lambda: tiff(opaque_inside(stack(3)), 2, 2),
    "grey_12.pgm": lambda: netpbm("P5", grey(4095, np.uint16), 4095),
    "grey_16.pgm": lambda: netpbm("P5", grey(65535, np.uint16), 65535),
    "color.ppm": lambda: netpbm("P6", stack(3), 255),
}

DATASETS = """
from pathlib import Path
import numpy as np
from PIL import Image, ImageOps

def files(root): return sorted(path for path in Path(root).rglob("*.*"))
def labels(root): return [file.parent.name for file in files(root)]

class Photos:
    def __init__(self, root): self.files = files(root)
    def __len__(self): return len(self.files)
    def __getitem__(self, index): return Image.open(self.files[index]), self.files[index].parent.name

def images(root): return Photos(root)
def image_list(root): return [Image.open(file) for file in files(root)], labels(root)
def paths(root): return files(root), labels(root)
def names(root): return [str(file) for file in files(root)], labels(root)
def arrays(root): return [np.asarray(Image.open(file)) for file in files(root)], labels(root)
"""

OWN = ("images", "image_list", "paths", "names")
READ_BY_PILLOW_ALONE = {"grey.png", "color.png", "color.jpg", "grey.jpg", "bits_12.png", "bits_16.png", "color.bmp"}
"""Pictures whose arrays need no more than scaling."""


TURNED = {f"turned_{number}.jpg" for number in (2, 3, 4, 7, 8)}
"""Pictures whose orientation is read as that of others."""


@pytest.fixture(scope="module", params=slow_but(PICTURES.keys() - TURNED, PICTURES))
def form(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def root(form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(4):
            (root / name / f"{number}_{form}").write_bytes(PICTURES[form]())
    (root.with_name(f"{root.name}.py")).write_text(DATASETS)
    return root


def trained(name: str, root: Path, /, **args: object) -> tuple[DataRef, list[np.ndarray]]:
    """Return a prepared data set and its inputs in an order that does not depend on its source."""
    data = fetch(name, root.with_name(f"{root.name}_cache"), args=args)
    inputs = np.concatenate([np.load(data.folder / f"{split}_inputs.npy") for split in ("train", "test")])
    return data, sorted(inputs, key=lambda pixels: pixels.tobytes())


def predicted(data: DataRef, root: Path) -> list[np.ndarray]:
    """Return what ``predict`` reads for a model that was trained on a data set."""
    metadata = {"kind": data.kind, "reading_rules": data.rules.as_json()}
    file = root.with_name(f"{root.name}.onnx")
    model = open_model(linear(file, np.zeros((int(np.prod(data.shape)), 2)), sizes=data.shape, **metadata))
    inputs = gather(model, [root])
    read = [inputs.read(number) for number in range(len(inputs))]
    assert all(isinstance(pixels, np.ndarray) for pixels in read), read
    return sorted(read, key=lambda pixels: pixels.tobytes())


def in_order(images_HWC: list[np.ndarray]) -> list[np.ndarray]:
    return sorted((image.transpose(2, 0, 1) for image in images_HWC), key=lambda pixels: pixels.tobytes())


def same(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return [pixels.shape for pixels in some] == [pixels.shape for pixels in others] and all(
        map(np.array_equal, some, others)
    )


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the toy Dataset closes none
def test_training_and_prediction_read_a_picture_alike(root: Path, form: str):
    data, inputs = trained(f"image_folder:{root}", root)
    assert same(inputs, predicted(data, root))
    sides = data.shape[1:]
    assert sides in (SIDES, SIDES[::-1]) and (sides == SIDES[::-1]) == (
        form
        in {*(f"turned_{number}.jpg" for number in range(5, 9)), "turned.png", "turned.webp"}
        | {"turned.tiff", "turned_16.tiff", "turned_color_16.tiff"}
    )
    contrast = np.stack(inputs).astype(float).std((2, 3)).max()
    assert contrast > 20, f"{form} has lost its contrast"
    own = root.with_name(f"{root.name}.py")
    for function in (*OWN, *(["arrays"] if form in READ_BY_PILLOW_ALONE else [])):
        other, theirs = trained(f"{own}:{function}", root, root=str(root))
        assert (other.shape, other.rules) == (data.shape, data.rules), function
        assert same(inputs, theirs), function


NOT_ON_THE_CARD = {
    *("color_12.png", "opacity_12.png", "grey_opacity_16.png", "turned.tiff", "turned_16.tiff"),
    *("turned_color_16.tiff", "white_is_zero.tiff", "white_is_zero_16.tiff", "white_is_zero_12.tiff", "fax.tiff"),
    *("bands.tiff", "bands_undeclared.tiff", "bands_as_opacity.tiff", "bands_12.tiff", "bands_lzw.tiff"),
    "opacity.tiff",
}
"""Pictures for which the model card refers to ``predict``."""


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("size", [SIDES, (9, 14), (30, 17)])
def test_the_code_on_a_model_card_reads_as_prediction_does(root: Path, form: str, size: tuple[int, int]):
    if form in NOT_ON_THE_CARD:
        pytest.skip("the card says that it does not read these")
    data, _ = trained(f"image_folder:{root}", root)
    shape = (data.shape[0], *size)
    code, *_ = fields.field("images").card_code(shape, data.rules, None)
    names = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(code, names)
    file = next(path for path in sorted(root.rglob("*.*")))
    expected = read_pixels(file, shape, data.rules, 10**6)
    assert isinstance(expected, np.ndarray)
    assert np.array_equal(names["read"](file), expected.transpose(1, 2, 0))  # ty: ignore[call-non-callable]


def upright(form: str, content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("L")).astype(float)


@pytest.mark.parametrize(
    ("form", "top"), [("bits_12.png", 4095), ("bits_16.png", 65535), ("grey_12.pgm", 65535), ("color_12.png", 4095)]
)
def test_the_range_of_deep_pictures_is_that_of_all_of_them(tmp_path: Path, form: str, top: int):
    for name, share in (("a", 0.1), ("b", 1.0)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(3):
            levels = (stack(3, 4095, np.uint16) * share).astype(np.uint16)
            content = {
                "bits_12.png": lambda levels=levels: saved(Image.fromarray(levels[..., 0]), "PNG"),
                "bits_16.png": lambda levels=levels: saved(Image.fromarray(levels[..., 0] * 16), "PNG"),
                "grey_12.pgm": lambda levels=levels: netpbm("P5", levels[..., 0], 4095),
                "color_12.png": lambda levels=levels: png_16(levels, 2),
            }[form]()
            (tmp_path / "own" / name / f"{number}_{form}").write_bytes(content)
    data, inputs = trained(f"image_folder:{tmp_path / 'own'}", tmp_path / "own")
    assert data.rules.top == top and f"0 to {top:,}" in data.notes[0]
    means = sorted(float(pixels.mean()) for pixels in inputs)
    assert means[3] / means[2] == pytest.approx(10, rel=0.1)  # darker by its levels, not scaled to each picture's own
    assert same(inputs, predicted(data, tmp_path / "own"))


def test_a_model_does_not_answer_pictures_of_another_range(tmp_path: Path):
    for place, top in (("twelve", 4095), ("sixteen", 65535)):
        for name in "ab":
            (tmp_path / place / name).mkdir(parents=True)
            for number in range(3):
                Image.fromarray(grey(top, np.uint16)).save(tmp_path / place / name / f"{number}.png")
    twelve, _ = trained(f"image_folder:{tmp_path / 'twelve'}", tmp_path / "twelve")
    sixteen, _ = trained(f"image_folder:{tmp_path / 'sixteen'}", tmp_path / "sixteen")
    alike, _ = trained(f"image_folder:{tmp_path / 'sixteen'}", tmp_path / "sixteen", bits=12)
    metadata = {"kind": "images", "reading_rules": twelve.rules.as_json()}
    file = linear(
        tmp_path / "m.onnx", np.zeros((int(np.prod(twelve.shape)), 2)), sizes=twelve.shape, labels="ab", **metadata
    )
    assert "up to the level 4,095, not up to 65,535 (--data.args.bits 12" in open_model(file).unlike(sixteen)
    assert not open_model(file).unlike(twelve) and not open_model(file).unlike(alike)
    with pytest.raises(UserError, match=r"does not fit .*--data.args.bits 12"):
        as_trained(sixteen, twelve)
    assert as_trained(alike, twelve).shape == twelve.shape


def test_a_picture_keeps_what_a_viewer_shows(tmp_path: Path):
    """Compare forms that Pillow reads right with their counterparts that it does not."""
    levels = grey(65535, np.uint16)
    pairs = {
        "white_is_zero_16.tiff": (tiff(65535 - levels, 0), saved(Image.fromarray(levels), "PNG")),
        "white_is_zero.tiff": (tiff(255 - (levels >> 8).astype(np.uint8), 0), tiff((levels >> 8).astype(np.uint8), 1)),
        "turned.tiff": (tiff(np.rot90(levels), 1, orientation=6), saved(Image.fromarray(levels), "PNG")),
        "grey_16.pgm": (netpbm("P5", levels, 65535), saved(Image.fromarray(levels), "PNG")),
    }
    for name, contents in pairs.items():
        seen = []
        for kind, content in zip(("odd", "plain"), contents, strict=True):
            other = tmp_path / name / kind
            for label, share in (("a", 2), ("b", 3)):
                (other / label).mkdir(parents=True)
                (other / label / f"0{Path(name).suffix}").write_bytes(content)
                (other / label / f"1{Path(name).suffix}").write_bytes(saved(Image.fromarray(levels // share), "PNG"))
            seen.append(trained(f"image_folder:{other}", other)[1])
        assert same(*seen), name


def test_all_bands_are_kept_and_opacity_is_painted(tmp_path: Path):
    bands = [stack(4) for _ in range(4)]
    for name in "ab":
        for kind in ("bands", "icons"):
            (tmp_path / kind / name).mkdir(parents=True)
            for number in range(2):
                levels = opaque_inside(stack(3)) if kind == "icons" else bands["ab".index(name) * 2 + number]
                (tmp_path / kind / name / f"{number}.tiff").write_bytes(tiff(levels, 2, 2))
    data, inputs = trained(f"image_folder:{tmp_path / 'bands'}", tmp_path / "bands")
    assert data.shape == (4, *SIDES) and same(inputs, in_order(bands))
    assert "a fourth channel that is no opacity: it is kept" in data.notes[0]
    data, inputs = trained(f"image_folder:{tmp_path / 'icons'}", tmp_path / "icons")
    assert data.shape == (3, *SIDES) and (inputs[0][:, 0] == 255).all()
    for colors, shape in (("rgb", 3), ("grey", 1), ("rgba", 4)):
        data, inputs = trained(f"image_folder:{tmp_path / 'bands'}", tmp_path / "bands", colors=colors)
        assert data.shape[0] == shape and same(inputs, predicted(data, tmp_path / "bands"))
        if colors == "rgb":
            assert same(inputs, in_order([levels[..., :3] for levels in bands]))


@pytest.mark.parametrize(("levels", "ground"), [((250,), 0), ((9,), 255), ((250, 9), 128), ((120,), 255)])
def test_the_ground_shows_what_lies_on_it(tmp_path: Path, levels: tuple[int, ...], ground: int):
    for name in "ab":
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(4):
            level = levels[number % len(levels)] + number // 2
            icon = opaque_inside(np.full((*SIDES, 3), level, np.uint8))
            Image.fromarray(icon).save(tmp_path / "own" / name / f"{number}.png")
    data, inputs = trained(f"image_folder:{tmp_path / 'own'}", tmp_path / "own")
    assert data.rules.ground == ground and {int(pixels[0, 0, 0]) for pixels in inputs} == {ground}
    assert min(pixels.std() for pixels in inputs) > 20


TEXTS = [
    "one line",
    "two\nlines",
    "page\x0cbreak",
    "line\u2028separator",
    "next\x85line",
    "carriage\r\nreturn",
    "tab\tbed",
]


def letters(data: DataRef, file: Path) -> Any:
    """Return a model of texts with the rules and the columns of a data set."""
    columns = data.folder / "columns.json"
    named = {"columns": columns.read_text()} if columns.exists() else {}
    return open_model(
        bag_of_letters(file, "abc", np.zeros((3, 2)), ["a", "b"], reading_rules=data.rules.as_json(), **named)
    )


def texts_of(data: DataRef, place: Path, tmp_path: Path) -> list[str]:
    inputs = gather(letters(data, tmp_path / "model.onnx"), [place])
    return [cast(str, inputs.read(number)) for number in range(len(inputs))]


def count(data: DataRef) -> int:
    return data.train_size + data.validation_size + data.test_size


def test_training_and_prediction_count_the_same_texts(tmp_path: Path):
    texts = [f"{text} of {label} number {number}" for label in "ab" for number, text in enumerate(TEXTS * 4)]
    for position, text in enumerate(texts):
        file = tmp_path / "files" / "ab"[position % 2] / f"{position}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")
    lines = [text for text in texts if "\n" not in text]
    for label in "ab":
        (tmp_path / "lines").mkdir(exist_ok=True)
        (tmp_path / "lines" / f"{label}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    for quoted in (False, True):
        content = "".join(f'"{text}"\n' if quoted else f"{text}\n" for text in (texts if quoted else lines))
        (tmp_path / f"single_{quoted}.csv").write_text(f"text\n{content}", encoding="utf-8", newline="")
    rows = "".join(f'"{text}",{"ab"[position % 2]}\n' for position, text in enumerate(texts))
    (tmp_path / "table.csv").write_text(f"text,label\n{rows}", encoding="utf-8", newline="")

    files = fetch(f"text_folder:{tmp_path / 'files'}", tmp_path / "cache")
    assert count(files) == len(texts) == len(texts_of(files, tmp_path / "files", tmp_path))
    by_line = fetch(f"text_folder:{tmp_path / 'lines'}", tmp_path / "cache")
    assert count(by_line) == 2 * len(lines)
    assert texts_of(by_line, tmp_path / "lines", tmp_path) == lines * 2
    table = fetch(f"csv:{tmp_path / 'table.csv'}", tmp_path / "cache")
    assert count(table) == len(texts)
    assert texts_of(table, tmp_path / "table.csv", tmp_path) == texts
    assert texts_of(table, tmp_path / "single_True.csv", tmp_path) == texts
    assert texts_of(table, tmp_path / "single_False.csv", tmp_path) == lines


def test_a_table_of_one_column_may_hold_commas(tmp_path: Path):
    (tmp_path / "in.csv").write_text('text\nthe, a; of\n"quoted, ""twice"""\n\n""\nlast\n')
    model = open_model(bag_of_letters(tmp_path / "m.onnx", "abc", np.zeros((3, 2)), ["a", "b"]))
    inputs = gather(model, [tmp_path / "in.csv"])
    assert [inputs.read(number) for number in range(len(inputs))] == [
        "the, a; of",
        'quoted, "twice"',
        "is empty",
        "last",
    ]
    assert [name.rpartition(" ")[2] for name in inputs.names] == ["2", "3", "5", "6"]


def test_one_text_file_that_cannot_be_read_leaves_the_others(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.txt").write_text("good")
    (tmp_path / "in" / "2.txt").write_bytes("bad".encode("utf-16"))
    for rules in ('{"text_per": "file"}', '{"text_per": "line"}'):
        file = bag_of_letters(tmp_path / "m.onnx", "abc", np.zeros((3, 2)), ["a", "b"], reading_rules=rules)
        inputs = gather(open_model(file), [tmp_path / "in"])
        read = [inputs.read(number) for number in range(len(inputs))]
        assert read[0] == "good" and "is not UTF-8" in read[1] and type(read[1]) is not str


GROUNDS = (255, 0, 128, None)


@pytest.mark.parametrize("painted", slow_but([(128, 1), (0, 3), (None, 3)], itertools.product(GROUNDS, [1, 3])))
def test_the_exported_model_paints_as_predict_does(tmp_path: Path, painted: tuple[int | None, int]):
    ground, channels = painted
    rules = ReadingRules(ground=ground)
    colors = opaque_inside(stack(3))
    Image.fromarray(colors).save(tmp_path / "icon.png")
    shape = (channels, *SIDES)
    expected = read_pixels(tmp_path / "icon.png", shape, rules, 10**6)
    graph = fields.field("images").preprocessing(shape, 0, rules)
    assert graph is not None
    session = open_session(ir.to_proto(plain(graph, "prepare.", ["prepared"])).SerializeToString())
    (prepared,) = answers(session, None, pixels=colors[None])
    assert isinstance(expected, np.ndarray) and np.abs(prepared[0].astype(int) - expected).max() <= 1
