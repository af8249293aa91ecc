"""The log and the progress of a run on stderr, so that stdout holds the result alone."""

import functools
import logging
import sys
import time

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from torchmill.components.tasks import shown, title
from torchmill.components.training.progress import EpochResult, StepProgress
from torchmill.flows.logs import clean

logger = logging.getLogger("torchmill")


@functools.cache
def terminal() -> Console:
    """Return the terminal, as it is at its first use: a prewarmed process imports this before it has one."""
    return Console(stderr=True, highlight=False)


def show_log(explain: bool = False) -> None:
    """Show the components' log lines: coloured in a terminal, plain elsewhere.

    Args:
        explain: add a line for each step that says whether it ran, and why.
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
    logger.addFilter(clean)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class TrainingDisplay:
    """Progress of a training: a bar in a terminal; elsewhere a line per epoch, and one each half minute."""

    LINE_SECONDS = 30.0

    def __init__(self, epochs: int, samples: int, measure: str):
        """
        Args:
            samples: training samples of an epoch.
            measure: name of the score, as in ``DataRef.measure``.
        """
        self.epochs, self.samples, self.measure = epochs, samples, measure
        self.started = self.last_line = time.monotonic()
        self.first = 1
        """Epoch to begin with: an earlier process has shown those before."""
        self.samples_before: int | None = None
        """Samples that were done at the first report, which an earlier process may have done."""
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> "TrainingDisplay":
        if terminal().is_terminal:
            columns = [
                TextColumn("[bold]epoch {task.fields[epoch]}/" + str(self.epochs)),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
            ]
            self.bar = Progress(*columns, console=terminal(), transient=True)
            self.bar.start()
            self.task = self.bar.add_task("fit", total=self.epochs * self.samples, epoch=1, numbers="")
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def score(self, value: float | None) -> str:
        """Return a score with its name, after two spaces; empty without a score."""
        return (
            "" if value is None or self.measure == "loss" else f"  {title(self.measure)} {shown(self.measure, value)}"
        )

    def step(self, progress: StepProgress) -> None:
        """Show a report from within an epoch."""
        done = (progress.epoch - 1) * self.samples + progress.samples
        if self.samples_before is None:
            self.samples_before, self.started = done, time.monotonic()
            return
        speed = (done - self.samples_before) / (time.monotonic() - self.started)
        if self.bar:
            numbers = f"loss {progress.loss:.4f}{self.score(progress.score)}  {speed:,.0f} samples/s"
            self.bar.update(self.task, completed=done, epoch=progress.epoch, numbers=numbers)
        elif time.monotonic() - self.last_line > self.LINE_SECONDS:
            self.last_line = time.monotonic()
            seconds_left = (self.epochs * self.samples - done) / speed
            logger.info(
                "epoch %d/%d  %3.0f %%  loss %.4f%s  %s samples/s  %.0f s left",
                *(progress.epoch, self.epochs, 100 * progress.samples / self.samples),
                *(progress.loss, self.score(progress.score), f"{speed:,.0f}", seconds_left),
            )

    def epoch(self, result: EpochResult) -> None:
        """Show the result of an epoch."""
        if result.epoch < self.first:
            return
        self.last_line = time.monotonic()
        logger.info(
            "epoch %d/%d  loss %.4f  validation loss %.4f%s  %s samples/s%s",
            *(result.epoch, self.epochs, result.train_loss, result.validation_loss),
            *(self.score(result.validation_score), f"{result.samples_per_second:,.0f}"),
            "  best so far" if result.is_best else "",
        )
