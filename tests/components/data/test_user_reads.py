"""The user's own function is called again once the files that it read have changed, and not before."""

import logging
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchmill.components.data.fetch import fetch, prepared

CODE = """
import csv, os, sqlite3
from pathlib import Path
import numpy as np
from PIL import Image
HERE = Path(__file__).parent / "files"

def count():
    with open(Path(__file__).with_name("calls"), "a") as file:
        file.write("called ")

def photos():
    count()
    files = sorted(HERE.rglob("*.png"))
    return [np.asarray(Image.open(file)) for file in files], [file.parent.name for file in files]

def one_file(path="files/table.csv"):
    import wave  # an import inside lists folders as well
    count()
    rows = np.loadtxt(Path(__file__).parent / path, delimiter=",")
    return rows[:, :2], rows[:, 2].astype(int)

def database():
    count()
    rows = np.array(sqlite3.connect(HERE / "rows.db").execute("select * from rows").fetchall())
    return rows[:, :2], rows[:, 2].astype(int)

def by_a_library(root):
    count()
    names = sorted(os.listdir(root))  # a library in C would read these files
    return np.arange(40.0).reshape(20, 2) + len(names), np.arange(20) % 2
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work.py").write_text(CODE)
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "files" / label).mkdir(parents=True)
        for number in range(5):
            image = Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8))
            image.save(tmp_path / "files" / label / f"{number}.png")
    rows = table(0)
    np.savetxt(tmp_path / "files" / "table.csv", rows, delimiter=",")
    with sqlite3.connect(tmp_path / "files" / "rows.db") as database:
        database.execute("create table rows (a, b, label)")
        database.executemany("insert into rows values (?, ?, ?)", rows.tolist())
    database.close()
    return tmp_path


def table(seed: int) -> np.ndarray:
    return np.column_stack([np.random.default_rng(seed).normal(size=(20, 2)), np.arange(20) % 2])


def add_row(project: Path) -> None:
    with sqlite3.connect(project / "files" / "rows.db") as database:
        database.execute("insert into rows values (1, 2, 1)")
    database.close()


CHANGES = {
    "photos": [
        lambda project: Image.new("L", (8, 8)).save(project / "files" / "a" / "new.png"),
        lambda project: (project / "files" / "b" / "0.png").unlink(),
        lambda project: Image.new("L", (8, 8), 9).save(project / "files" / "a" / "1.png"),
    ],
    "one_file": [lambda project: np.savetxt(project / "files" / "table.csv", table(1), delimiter=",")],
    "database": [add_row],
    "by_a_library": [lambda project: (project / "files" / "a" / "0.png").write_bytes(b"other")],
}


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(("function", "change"), [(name, each) for name, some in CHANGES.items() for each in some])
def test_a_change_calls_the_function_again(project: Path, function: str, change, caplog):
    args = {"root": str(project / "files" / "a")} if function == "by_a_library" else {}

    def data():
        return fetch(f"work.py:{function}", project / "cache", args=args)

    def calls() -> int:
        return len((project / "calls").read_text().split())

    first = data()
    (project / "predictions.csv").write_text("a file beside the code")
    (project / "files" / "notes.md").write_text("a file that the function doesn't look for")
    assert data() == first and calls() == 1
    change(project)
    assert prepared(f"work.py:{function}", project / "cache", args=args) is None
    with caplog.at_level(logging.INFO, "torchmill"):
        data()
    assert calls() == 2
    assert function == "by_a_library" or "has changed since it was read" in caplog.text
    data()
    assert calls() == 2
