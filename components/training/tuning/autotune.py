"""Autotune: measure in trial runs which device and batch size are fastest, and whether compilation pays.

The choices are saved in a file, so that a resumed training keeps them, whatever the timing is today.
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
from pydantic import BaseModel, Field, PositiveInt

from torchmill.components.files import write_text
from torchmill.components.state_files import read_json
from torchmill.components.training.batches import batch_size_of, epoch_batches
from torchmill.components.training.compilation import CompilationFailed
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.device import available, resolve
from torchmill.components.training.memory import is_out_of_memory
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.tuning.trial_run import trial_run

logger = logging.getLogger("torchmill")

STEPS = 8
"""Steps of a trial run."""
WARMUP_STEPS = 2
"""First steps of a trial run, which are slower because they compile and allocate memory."""
SMALLEST_BATCH = 16
"""Batch size that the search starts with."""
EPOCH_STEPS = 8
"""Fewest steps that an epoch must have."""
MIN_SPEEDUP = 1.1
"""Smallest gain in samples per second for which the batch size is doubled."""
MIN_COMPILE_SECONDS = 120.0
"""Shortest training, in seconds, for which compilation is tried: compiling itself takes a while."""


class SavedChoices(BaseModel):
    """Choices as ``trials.json`` holds them, so that a resumed training makes the same."""

    device: str | None = Field(None, pattern=r"^(cpu|cuda|mps|xpu)(:\d+)?$")
    batch_size: PositiveInt | None = None
    compile: bool | None = None


@dataclass(frozen=True)
class Pace:
    """Measured speed of a training."""

    begin_seconds: float
    """Extra time of the first steps, to compile and to allocate memory."""
    step_seconds: float
    """Median time of a step after these."""


@dataclass(frozen=True)
class Autotune:
    """Choices of device, batch size and compilation for one training.

    Example:
        >>> tuner = Autotune(folder, setup)  # doctest: +SKIP
        >>> device = tuner.device("auto", config)  # doctest: +SKIP
        >>> config = config.model_copy(update={"batch_size": tuner.batch_size(config, device)})  # doctest: +SKIP
    """

    folder: Path
    """Folder of ``trials.json``, which saves the choices."""
    setup: TrainingSetup
    """The training to tune. Each trial run replaces its config and device."""

    def device(self, name: str, config: TrainConfig) -> torch.device:
        """Return the device of that name; ``auto`` is the one with the shortest step."""
        kinds = available()
        if name != "auto" or len(kinds) == 1:
            return resolve(name)
        config = config.model_copy(update={"compile": "off"})

        def fastest() -> str:
            seconds = {kind: self.pace(config, torch.device(kind)).step_seconds for kind in kinds}
            best = min(seconds, key=seconds.__getitem__)
            steps = ", ".join(f"{1000 * seconds[kind]:.3g} ms on {kind}" for kind in kinds)
            logger.info("device  %s: a step takes %s", best, steps)
            return best

        return torch.device(self._saved("device", fastest))

    def batch_size(self, config: TrainConfig, device: torch.device) -> int:
        """Return the configured size; ``auto`` doubles it while that fits in memory and is faster."""
        if config.batch_size is not None:
            return config.batch_size

        def largest() -> int:
            best_size, best_speed = 0, 0.0
            size = min(SMALLEST_BATCH, len(self.setup.training))
            while best_size == 0 or size * EPOCH_STEPS <= len(self.setup.training):
                try:
                    trial = config.model_copy(update={"batch_size": size, "compile": "off"})
                    speed = size / self.pace(trial, device).step_seconds
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or not best_size:
                        raise
                    break
                if speed < MIN_SPEEDUP * best_speed:
                    break
                best_size, best_speed, size = size, speed, 2 * size
            logger.info("batch size  %d: %s samples/s", best_size, f"{best_speed:,.0f}")
            return best_size

        return self._saved("batch_size", largest)

    def compiles(self, config: TrainConfig, device: torch.device) -> bool:
        """Return True if the network is to be compiled; ``auto`` does if the whole training then ends sooner."""
        if config.compile != "auto":
            return config.compile == "on"
        steps_per_epoch = len(epoch_batches(len(self.setup.training), batch_size_of(config), 0, epoch=1))

        def pays() -> bool:
            steps = steps_per_epoch * config.epochs
            plain = self.pace(config.model_copy(update={"compile": "off"}), device)
            if steps * plain.step_seconds < MIN_COMPILE_SECONDS:
                logger.info("compile  off: the training takes only %.0f s", steps * plain.step_seconds)
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

        return self._saved("compile", pays)

    def pace(self, config: TrainConfig, device: torch.device) -> Pace:
        """Measure a trial run of a copy of the network; the network and rng states don't change.

        Raises:
            torch.OutOfMemoryError: the batch fits in memory only in parts.
        """
        seconds = []
        with trial_run(replace(self.setup, config=config, device=device), STEPS) as (state, batches):
            for _ in range(STEPS):
                started = time.perf_counter()
                batch = next(batches)
                state.update(state.step(batch), state.learning.size(batch))
                state.is_finite()  # waits for the device
                seconds.append(time.perf_counter() - started)
            if state.micro_batch:
                raise torch.OutOfMemoryError(f"out of memory with {config.batch_size} samples")
        step_seconds = statistics.median(seconds[WARMUP_STEPS:])
        return Pace(sum(seconds[:WARMUP_STEPS]) - WARMUP_STEPS * step_seconds, step_seconds)

    def _saved(self, name: str, choose: Callable[[], Any]) -> Any:
        """Return the saved choice, or choose and save it."""
        file = self.folder / "trials.json"
        saved = read_json(file, SavedChoices)
        choices = saved.model_dump(exclude_none=True) if saved else {}
        if name not in choices:
            choices[name] = choose()
            write_text(file, json.dumps(choices))
        return choices[name]
