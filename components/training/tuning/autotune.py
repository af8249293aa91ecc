"""Settle by trial what a configuration leaves open: which device, how large a batch, whether to compile.

A trial is a few steps of a copy of the network. What was found is kept in a file: a training that goes on does so as it
began, whatever a clock would say today.
"""

import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from torchmill.components.files import write_text
from torchmill.components.training.compilation import CompilationFailed
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.device import available, resolve
from torchmill.components.training.fit import batch_orders, known_batch_size
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.state import is_out_of_memory
from torchmill.components.training.tuning.trial_run import trial_run

logger = logging.getLogger("torchmill")

STEPS, WARM = 8, 2
"""Of a trial, and how many of them are not counted: they make what later ones find made."""
SMALLEST_BATCH, EPOCH_STEPS = 16, 8
"""Where the search for a batch begins, and how many batches an epoch has at least."""
WORTH = 1.1
"""Times as many samples a second that a batch of twice the size must give to be taken."""
LONG_SECONDS = 120.0
"""A training that is over sooner is not even tried compiled: to compile takes a good part of it."""


@dataclass(frozen=True)
class Pace:
    """How fast a training goes."""

    begin_seconds: float
    """Of the first steps beyond what they would take later: to compile, to set memory aside."""
    step_seconds: float


@dataclass(frozen=True)
class Autotune:
    """Trials of one training, and the folder that keeps what they decided."""

    folder: Path
    setup: TrainingSetup
    """The training; each trial takes its own settings and device instead of the setup's."""

    def device(self, name: str, config: TrainConfig) -> torch.device:
        """Give the device of that name; ``auto`` is the kind on which a step takes least, where there are several."""
        kinds = available()
        if name != "auto" or len(kinds) == 1:
            return resolve(name)
        config = config.model_copy(update={"compile": "off"})

        def fastest() -> str:
            took = {kind: self.pace(config, torch.device(kind)).step_seconds for kind in kinds}
            best = min(took, key=took.__getitem__)
            told = ", ".join(f"{kind} {1000 * seconds:.3g}" for kind, seconds in took.items())
            logger.info("device  %s: milliseconds of a step on %s", best, told)
            return best

        return torch.device(self._kept("device", fastest))

    def batch_size(self, config: TrainConfig, device: torch.device) -> int:
        """Give the size that was asked for, or double it as long as that gives more samples a second, and fits."""
        if config.batch_size is not None:
            return config.batch_size

        def largest() -> int:
            size, speed = 0, 0.0
            trying = min(SMALLEST_BATCH, len(self.setup.training))
            while size == 0 or trying * EPOCH_STEPS <= len(self.setup.training):
                try:
                    tried = config.model_copy(update={"batch_size": trying, "compile": "off"})
                    new = trying / self.pace(tried, device).step_seconds
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or not size:
                        raise
                    break
                if new < WORTH * speed:
                    break
                size, speed, trying = trying, new, 2 * trying
            logger.info("batch size  %d: %s samples/s", size, f"{speed:,.0f}")
            return size

        return self._kept("batch_size", largest)

    def compiles(self, config: TrainConfig, device: torch.device) -> bool:
        """Tell whether to compile: where asked to, or where the whole training is over sooner with it."""
        if config.compile != "auto":
            return config.compile == "on"
        per_epoch = len(batch_orders(len(self.setup.training), known_batch_size(config), 0, epoch=1))

        def pays() -> bool:
            steps = per_epoch * config.epochs
            plain = self.pace(config.model_copy(update={"compile": "off"}), device)
            if steps * plain.step_seconds < LONG_SECONDS:
                logger.info("compile  off: %.0f s in all are too few", steps * plain.step_seconds)
                return False
            try:
                compiled = self.pace(config.model_copy(update={"compile": "on"}), device)
            except CompilationFailed as error:
                logger.info("compile  off: %s", error)
                return False
            saved = steps * (plain.step_seconds - compiled.step_seconds) - compiled.begin_seconds
            logger.info(
                "compile  %s: %.3g ms a step instead of %.3g, after %.0f s",
                "on" if saved > 0 else "off",
                *(1000 * compiled.step_seconds, 1000 * plain.step_seconds, compiled.begin_seconds),
            )
            return saved > 0

        return self._kept("compile", pays)

    def pace(self, config: TrainConfig, device: torch.device) -> Pace:
        """Train a copy of the network for a few steps; the network and the random states are left as they were."""
        took = []
        with trial_run(replace(self.setup, config=config, device=device), STEPS) as (state, batches):
            for _ in range(STEPS):
                started = time.perf_counter()
                inputs, labels = next(batches)
                state.update(state.step(inputs, labels), len(inputs))
                state.is_finite()  # waits for the device
                took.append(time.perf_counter() - started)
            if state.micro_batch:
                raise torch.OutOfMemoryError(f"out of memory with {config.batch_size} samples")
        each = statistics.median(took[WARM:])
        return Pace(sum(took[:WARM]) - WARM * each, each)

    def _kept(self, name: str, decide: Callable[[], Any]) -> Any:
        file = self.folder / "trials.json"
        held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if name not in held:
            held[name] = decide()
            write_text(file, json.dumps(held))
        return held[name]
