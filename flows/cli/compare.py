"""`torchmill compare`: two recorded runs, on the same test samples one by one."""

import json
from dataclasses import dataclass
from pathlib import Path

from torchmill.components import tasks, tracking
from torchmill.components.errors import UserError
from torchmill.components.evaluation.comparison.page import differing, row, summary, verdict, write_comparison
from torchmill.components.evaluation.comparison.paired import pair
from torchmill.components.metrics.paired import Pairing
from torchmill.components.metrics.predictions import Predictions
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.reproduction import RecordedRun

# No flow of Prefect's: it trains nothing and is done in a moment.


@dataclass(frozen=True)
class Compared:
    """Two runs, what is between them, and the page that shows it."""

    first: RecordedRun
    second: RecordedRun
    pairing: Pairing
    page: Path


def compare(runs: Runs, first: str, second: str) -> Compared:
    """Compare what two runs gave for each test sample, and write it as a page.

    Args:
        first: id of a run in MLflow, the beginning of it, its name, or ``last``.
        second: likewise; told is how much better it is.

    Raises:
        UserError: there is no such run, or they are of different data.
    """
    one, other = tracking.find_run(runs, first), tracking.find_run(runs, second)
    data = [run.tags.get("data.sha256", "") for run in (one, other)]
    if data[0] != data[1]:
        names = [run.params.get("data.name", "other data") for run in (one, other)]
        raise UserError(
            f"Run {one.name} is of {names[0]} (sha256 {data[0][:12]}…), run {other.name} of {names[1]} (sha256 "
            f"{data[1][:12]}…): nothing to compare.",
            "Compare runs on the same data set.",
        )
    folder = runs.work / "comparisons" / f"{one.run_id[:12]}-{other.run_id[:12]}"
    held = [_predictions(runs, run, folder / run.run_id) for run in (one, other)]
    report = tracking.fetch_file(runs, one, "evaluation.json", folder / one.run_id)
    measure = json.loads(report.read_text(encoding="utf-8"))["measure"]
    pairing = pair(held[0], held[1], tasks.by_measure(measure).name)
    return Compared(one, other, pairing, write_comparison(one, other, pairing, measure, folder))


def _predictions(runs: Runs, run: RecordedRun, folder: Path) -> Predictions:
    return Predictions.read(tracking.fetch_file(runs, run, "predictions.npz", folder))


def show(compared: Compared) -> None:
    """Print the differences, what else differs, and where the page is."""
    first, second, pairing = compared.first, compared.second, compared.pairing
    head = ("", first.name, second.name, "difference", "95 % interval", "")
    table = [head, *(row(one) for one in pairing.differences)]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    print(f"\n{second.name} beside {first.name}, {pairing.samples:,} test samples: {verdict(pairing)}")
    print(f"{summary(pairing, first.name, second.name)}\n")
    for name, *cells, told in table:
        shown = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:-1], strict=True))
        print(f"{name:{widths[0]}}  {shown}  {told}".rstrip())
    if pairing.mcnemar:
        found = pairing.mcnemar
        print(
            f"\nOnly {second.name} is right on {found.only_second:,} samples, only {first.name} on "
            f"{found.only_first:,}: McNemar's test, exact, p = {found.p:.3g}"
        )
    print()
    for what, one, other in differing(first, second):
        print(f"{what}: {one} → {other}")
    print(f"\nAll of it: {compared.page}")
