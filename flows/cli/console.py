"""What a run shows in the terminal: on stderr, so that stdout is the result's alone."""

import functools
import json
import logging
import sys
import time

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from torchmill.components import tasks
from torchmill.components.evaluation.report.summary import summary
from torchmill.components.refs import EvaluationRef, Reproduction
from torchmill.components.training.progress import EpochResult, StepProgress

logger = logging.getLogger("torchmill")


@functools.cache
def terminal() -> Console:
    """The terminal, as it is when it is first written to: not when this is imported, which a standby does ahead."""
    return Console(stderr=True, highlight=False)


def show_log(explain: bool = False) -> None:
    """Show what the components log: coloured in a terminal, plain lines elsewhere.

    Args:
        explain: of each step, too, whether it ran, and why.
    """
    logging.getLogger("torchmill.explain").setLevel(logging.INFO if explain else logging.WARNING)
    if terminal().is_terminal:
        handler: logging.Handler = RichHandler(
            console=terminal(), show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def show_comparison(done: Reproduction) -> None:
    """Print what is equal between a run and its reproduction, and what isn't; results first."""
    results = [one for one in done.comparisons if one.is_result]
    different = [one for one in done.comparisons if not one.is_equal]
    width = max(len(one.what) for one in done.comparisons)
    print(f"\n{'':{width}}  run {done.recorded} beside {done.again}")
    for one in results:
        print(f"{one.what:{width}}  {'equal    ' if one.is_equal else 'DIFFERENT'}  {one.recorded}")
        if not one.is_equal:
            print(f"{'':{width}}             {one.again}")
    circumstances = [one for one in different if not one.is_result]
    for one in circumstances:
        print(f"{one.what:{width}}  was {one.recorded}, is {one.again}")
    if not circumstances:
        print(f"{'circumstances':{width}}  equal: versions, machine, device, Torchmill's source")
    count = sum(one.is_equal for one in results)
    print(f"\n{count} of {len(results)} results are equal" + (", to the last byte." if done.is_equal else "."))


def show_scores(scores: EvaluationRef) -> None:
    """Print the first things to know of an evaluation, each with its interval."""
    report = json.loads(scores.report.path.read_text(encoding="utf-8"))
    rows = summary(report, tasks.by_measure(scores.measure).name)
    names, values = max(len(row.name) for row in rows), max(len(row.value) for row in rows)
    print(f"\n{'':{names}}  {'':{values}}  95 % interval, of {scores.samples:,} samples")
    for row in rows:
        print(f"{row.name:{names}}  {row.value:>{values}}  {row.interval}".rstrip())
    print(f"\nAll of it: {scores.report.path}")


class TrainingDisplay:
    """A progress bar of the training in a terminal; elsewhere a line per epoch, and a line each half minute."""

    LINE_SECONDS = 30.0

    def __init__(self, epochs: int, samples: int, measure: str):
        self.epochs, self.samples, self.measure = epochs, samples, measure
        self.started = self.told = time.monotonic()
        self.first = 1
        """The epoch that an earlier process got to: those before were shown when they were trained."""
        self.before: int | None = None
        """Samples that it had behind it when it was first heard of."""
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> "TrainingDisplay":
        if terminal().is_terminal:
            columns = [
                TextColumn("[bold]epoch {task.fields[epoch]}/" + str(self.epochs)),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[told]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
            ]
            self.bar = Progress(*columns, console=terminal(), transient=True)
            self.bar.start()
            self.task = self.bar.add_task("fit", total=self.epochs * self.samples, epoch=1, told="")
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def score(self, value: float) -> str:
        """A score with its name, as it is shown while the training goes on."""
        shown = f"{100 * value:.2f} %" if tasks.is_share(self.measure) else f"{value:.4f}"
        return f"{self.measure.replace('_', ' ')} {shown}"

    def step(self, progress: StepProgress) -> None:
        done = (progress.epoch - 1) * self.samples + progress.samples
        if self.before is None:
            self.before, self.started = done, time.monotonic()
            return
        speed = (done - self.before) / (time.monotonic() - self.started)
        if self.bar:
            self.bar.update(
                self.task,
                completed=done,
                epoch=progress.epoch,
                told=f"loss {progress.loss:.4f}  {self.score(progress.score)} {speed:,.0f} samples/s",
            )
        elif time.monotonic() - self.told > self.LINE_SECONDS:
            self.told = time.monotonic()
            left = (self.epochs * self.samples - done) / speed
            logger.info(
                "epoch %d/%d  %3.0f %%  loss %.4f  %s  %s samples/s  %.0f s left",
                *(progress.epoch, self.epochs, 100 * progress.samples / self.samples),
                *(progress.loss, self.score(progress.score), f"{speed:,.0f}", left),
            )

    def epoch(self, result: EpochResult) -> None:
        if result.epoch < self.first:
            return
        self.told = time.monotonic()
        logger.info(
            "epoch %d/%d  loss %.4f  validation loss %.4f  %s  %s samples/s%s",
            *(
                result.epoch,
                self.epochs,
                result.train_loss,
                result.validation_loss,
                self.score(result.validation_score),
            ),
            *(f"{result.samples_per_second:,.0f}", "  best so far" if result.is_best else ""),
        )
