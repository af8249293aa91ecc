"""`torchmill compare`: two recorded runs, sample by sample. No flow: it trains nothing and takes a moment."""

from dataclasses import dataclass
from pathlib import Path

from torchmill.components import tasks, tracking
from torchmill.components.errors import UserError
from torchmill.components.evaluation.comparison.page import differing, row, summary, verdict, write_comparison
from torchmill.components.evaluation.comparison.paired import pair
from torchmill.components.evaluation.evaluation import Evaluation
from torchmill.components.metrics.paired import Pairing
from torchmill.components.metrics.predictions import Predictions
from torchmill.components.runs.folders import Runs, below
from torchmill.components.runs.reproduction import RecordedRun
from torchmill.components.wording import count
from torchmill.flows.recipes import fetch_recipe


@dataclass(frozen=True)
class Compared:
    """Two runs, their differences, and the page that shows them."""

    first: RecordedRun
    second: RecordedRun
    pairing: Pairing
    page: Path


def compare(runs: Runs, first: str, second: str) -> Compared:
    """Compare the predictions of two runs for each test sample, and write a page on it.

    Args:
        first: id of a run in MLflow, the beginning of it, its name, or ``last``.
        second: the run whose advantage over the first is computed.

    Raises:
        UserError: there is no such run, or the runs are of different data.
    """
    pair_of_runs = tracking.find_run(runs, first), tracking.find_run(runs, second)
    if len({run.tags.get("data.sha256") for run in pair_of_runs}) > 1:
        names = [
            f"{run.name} is of {run.params.get('data.name', 'other data')} "
            f"(sha256 {run.tags.get('data.sha256', '')[:12]}…)"
            for run in pair_of_runs
        ]
        raise UserError(f"These runs cannot be compared: {names[0]}, {names[1]}.", "Compare runs on the same data set.")
    folder = below(runs.work / "comparisons", "-".join(run.run_id[:12] for run in pair_of_runs))
    report = tracking.fetch_file(runs, pair_of_runs[0], "evaluation.json", below(folder, pair_of_runs[0].run_id))
    evaluation = Evaluation.read(report)
    measure = evaluation.measure
    if not evaluation.field_task:
        predictions = [
            Predictions.read(tracking.fetch_file(runs, run, "predictions.npz", below(folder, run.run_id)))
            for run in pair_of_runs
        ]
        pairing = pair(*predictions, tasks.by_measure(measure).name)
    else:
        pairing = _pair_statistics(runs, *pair_of_runs, folder)
    return Compared(*pair_of_runs, pairing, write_comparison(*pair_of_runs, pairing, measure, folder))


def _pair_statistics(runs: Runs, first: RecordedRun, second: RecordedRun, folder: Path) -> Pairing:
    """Compare two runs of a task over named fields, by the statistics of each test sample."""
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.evaluation.comparison.paired import pair_statistics
    from torchmill.components.evaluation.field_evaluation import STATISTICS
    from torchmill.components.field_tasks.choice import for_task
    from torchmill.components.field_tasks.field_task import FieldTask
    from torchmill.components.field_tasks.statistics import read_statistics
    from torchmill.components.runs.folders import data_cache

    config = fetch_recipe(runs, first, False)
    data = for_task(fetch(config.data.name, data_cache(), args=arguments(config.data)), config.task)
    statistics = [
        read_statistics(tracking.fetch_file(runs, run, STATISTICS, below(folder, run.run_id)))
        for run in (first, second)
    ]
    return pair_statistics(*statistics, FieldTask.open(data))


def show(compared: Compared) -> None:
    """Print the differences between the results and between the settings, and the page's path."""
    first, second, pairing = compared.first, compared.second, compared.pairing
    head = ("", first.name, second.name, "difference", "95 % interval", "")
    table = [head, *(row(difference) for difference in pairing.differences)]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    print(f"\n{second.name} beside {first.name}, {count(pairing.samples, 'test sample')}: {verdict(pairing)}")
    print(f"{summary(pairing, first.name, second.name)}\n")
    for name, *cells, word in table:
        line = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:-1], strict=True))
        print(f"{name:{widths[0]}}  {line}  {word}".rstrip())
    if test := pairing.mcnemar:
        print(
            f"\nOnly {second.name} is right on {count(test.only_second, 'sample')}, only {first.name} on "
            f"{test.only_first:,}: McNemar's test, exact, p = {test.p:.3g}"
        )
    print()
    for setting, before, after in differing(first, second):
        print(f"{setting}: {before} → {after}")
    print(f"\nFull comparison: {compared.page}")
