"""The pages in docs/ are true: their paths, commands, snippets and quoted output exist."""

import argparse
import re
import shlex
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import csv as table_reader
from pyarrow import parquet
from scipy.io import wavfile

from tests.docs_pages import (
    DOCS,
    NEEDS_A_RUN,
    PAGES,
    ROOT,
    commands,
    is_in_source,
    names_of_commands,
    prose,
    quotes,
    run_snippet,
    scripts,
    write_files,
)
from tests.toy_tokenizers import wordpiece
from torchmill.components import config
from torchmill.components.doctor.examine import CHECKS
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.flows.cli import configuration_page
from torchmill.flows.cli import main as cli
from torchmill.flows.cli.settings import read_config

COMMANDS = [(page, command) for page in PAGES for command in commands(page)]
STARTS = [(page, command) for page, command in COMMANDS if re.match(r"torchmill (train|check) --(?!help)", command)]


def named(value: object) -> str | None:
    return value.stem if isinstance(value, Path) else None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_is_short_and_narrow(page: Path):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 200
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_its_links_and_paths_exist(page: Path):
    text = prose(page)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if not leads_somewhere(page, link)]
    rows = re.findall(r"`((?:components|flows|docs|tests|examples|recipes|benchmarks)/[\w./-]*)`", text)
    assert missing + [path for path in rows if not (ROOT / path).exists()] == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Return True if the file exists, and in it the heading that the link names."""
    name, _, heading = link.partition("#")
    file = DOCS / name if name else page
    if not heading or not file.exists():
        return file.exists()
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_its_environment_variables_are_read_somewhere(page: Path):
    """MLflow's client reads two that name a user."""
    code = "".join(file.read_text() for part in ("flows", "components") for file in (ROOT / part).rglob("*.py"))
    names = set(re.findall(r"\b(?:TORCHMILL|PREFECT|MLFLOW)_[A-Z_]+\b", page.read_text(encoding="utf-8")))
    theirs = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    assert [name for name in names - theirs if name not in code] == []


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=named)
def test_its_commands_are_understood(page: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    if words[-1].startswith("--help"):
        with pytest.raises(SystemExit, match="0"):
            read(words)
    else:
        understand(words)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_that_it_mentions_exist(page: Path):
    assert names_of_commands(page) <= set(cli.make_parser().commands)


def understand(words: list[str]) -> None:
    """Parse a command line, and check the configuration that it asks for."""
    options = read(words)
    if words[0] in ("train", "check", "find-lr", "schedule"):
        assert isinstance(read_config(options), config.RunConfig)


def read(words: list[str]) -> argparse.Namespace:
    return cli.make_parser().parse_command(words)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_its_settings_exist(page: Path):
    known = {*config.fields(), *config.sections()}
    names = re.findall(
        r"--((?:data|task|model|initialize|check|train|evaluate|export|promote)\.[a-z0-9_-]+)", prose(page)
    )
    assert [name for name in names if name.replace("-", "_") not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_its_quoted_output_is_in_the_source(page: Path):
    stale = [f"{block}: {line}" for block, line in quotes(page) if not is_in_source(line)]
    assert stale == [], "no text of the source reads so: where a message was reworded, change the page as well"


@pytest.mark.parametrize(("page", "command"), STARTS, ids=named)
def test_its_runs_can_begin(page: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(page, tmp_path)
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = read(shlex.split(command)[1:])
    begin(read_config(options), tmp_path / "cache")


def begin(run: config.RunConfig, cache: Path) -> None:
    """Prepare the data of a run, build the network and make the loss, offline."""
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.data.samples import read_sample
    from torchmill.components.field_tasks.choice import for_task
    from torchmill.components.initialization.build import initialize
    from torchmill.components.training.losses import make_loss

    name = {"mnist": "digits", "names": "text_folder:reviews"}.get(run.data.name, run.data.name)
    settings = run.data.model_copy(update={"name": name})
    data = for_task(fetch(settings.name, cache, args=arguments(settings)), run.task)
    network, _ = initialize(run.model.model_copy(update={"weights": None}), run.initialize, data, run.seed)
    if data.goal:  # its losses ran once already
        return
    sample = read_sample(data, 4, run.seed)
    inputs, labels = sample.take(torch.arange(4))
    outputs = network.eval()(StandardizedModel.of(torch.nn.Identity(), data).standardized(inputs))
    assert torch.isfinite(make_loss(run.train, data, sample)(outputs, labels))


def write_data(folder: Path) -> None:
    """Write the images, the table and the texts that pages speak of."""
    rng = np.random.default_rng(0)
    for number, kind in enumerate(("cat", "dog") * 10):
        place = folder / "pets" / "train" / kind / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(place)
    rows = [
        f"{number},{number % 7}.5,{'red' if number % 3 else 'blue'},{number}.25,{number % 2}" for number in range(40)
    ]
    (folder / "table.csv").write_text("\n".join(["id,size,color,price,label", *rows]))
    write_houses(folder)
    (folder / "reviews").mkdir()
    for kind in ("good", "bad"):
        lines = [f"a {kind} film number {number}" for number in range(20)]
        (folder / "reviews" / f"{kind}.txt").write_text("\n".join(lines))
    write_texts_and_sounds(folder)
    write_masks_and_series(folder)


def write_masks_and_series(folder: Path) -> None:
    """Write the pictures with masks and the hourly series that pages speak of."""
    rng = np.random.default_rng(1)
    for part in ("images", "masks"):
        (folder / "photos" / part).mkdir(parents=True)
    for number in range(20):
        mask = rng.integers(0, 2, (32, 32), dtype=np.uint8)
        Image.fromarray(np.stack([120 * mask] * 3, 2)).save(folder / "photos" / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "photos" / "masks" / f"{number}.png")
    rows = [f"{datetime(2026, 1, 1) + timedelta(hours=n)},{np.sin(n / 4):.4f}" for n in range(2400)]
    (folder / "load.csv").write_text("\n".join(["time,load", *rows]))


def write_texts_and_sounds(folder: Path) -> None:
    """Write the plain text, the columns, the tokenizer and the tones that pages speak of."""
    words = ["Anna", "Ben", "Miller", "has", "friends", "in", "Rome", "Oslo"]
    lines = [f"{words[n % 3]} has {n} friends in {words[6 + n % 2]} .\n" for n in range(400)]
    (folder / "story.txt").write_text("".join(lines))
    (folder / "news").mkdir()
    columns = ["\n".join(f"{word} {'B-PER' if word in words[:3] else 'O'}" for word in line.split()) for line in lines]
    (folder / "news" / "train.txt").write_text("\n\n".join(columns))
    if find_spec("tokenizers"):
        wordpiece(folder, lines)
    times = np.arange(400) / 4000
    for kind, pitch in (("high", 1200), ("low", 300)):
        (folder / "tones" / kind).mkdir(parents=True)
        for number in range(10):
            tone = np.sin(2 * np.pi * (pitch + number) * times[: 300 + 10 * number]).astype(np.float32)
            wavfile.write(folder / "tones" / kind / f"{number}.wav", 4000, tone)


def write_houses(folder: Path) -> None:
    """Write the tables with gaps and dates that pages speak of."""
    rows = [f"{n},{'' if n % 5 else n},2026-01-{n % 28 + 1:02},seen {n % 4} times,{n * n + 1.5}" for n in range(40)]
    (folder / "houses.csv").write_text("\n".join(["id,area,sold,note,price", *rows]))
    for name in ("houses", "table"):
        parquet.write_table(table_reader.read_csv(folder / f"{name}.csv"), folder / f"{name}.parquet")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NEEDS_A_RUN], ids=named)
def test_its_snippets_run(page: Path, tmp_path: Path):
    write_files(page, tmp_path)
    for block in scripts(page):
        run_snippet(
            block.text, tmp_path, {"TORCHMILL_RUNS": str(tmp_path / "runs"), "TORCHMILL_DATA": str(tmp_path / "data")}
        )


def test_the_pages_count_the_checks():
    counts = {int(count) for count in re.findall(r"(\d+) checks\b", (DOCS / "own-network.md").read_text())}
    assert counts == {sum(not check.full for check in CHECKS)}


def test_the_configuration_page_is_what_the_settings_say():
    stale = "docs/configuration.md is stale. Write it: python -m torchmill.flows.cli.configuration_page"
    assert configuration_page.PAGE.read_text(encoding="utf-8") == configuration_page.page(), stale
