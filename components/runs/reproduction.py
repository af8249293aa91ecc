"""Comparison of a recorded run with its reproduction, down to the weights' digest."""

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import chain

from torchmill.components.refs import Ref


class Comparison(Ref):
    """One property of a run, compared with its reproduction's."""

    what: str
    recorded: str
    again: str
    is_result: bool = True
    """False for a circumstance, which may explain a difference."""

    @property
    def is_equal(self) -> bool:
        return self.recorded == self.again


class Reproduction(Ref):
    """A recorded run, run again."""

    recorded: str
    """Id of the recorded run."""
    again: str
    """Id of the run that repeats it."""
    comparisons: tuple[Comparison, ...]

    @property
    def is_equal(self) -> bool:
        """True if all results are equal, down to the weights' digest."""
        return all(pair.is_equal for pair in self.comparisons if pair.is_result)


@dataclass(frozen=True)
class RecordedRun:
    """A run as MLflow has recorded it."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, list[tuple[int, float]]]
    """Steps and values of each metric, in order."""


TIMES = ("seconds.", "samples_per_second")
"""Prefixes of metrics that no run repeats: times and speeds."""

DIGESTS = {
    "data": "data.sha256",
    "first weights": "initial.sha256",
    "trained weights": "weights.sha256",
    "ONNX model": "onnx.sha256",
}
"""Tags with digests of results."""

CIRCUMSTANCES = {
    "machine": "machine",
    "Torchmill's source": "torchmill.source",
    "git commit": "mlflow.source.git.commit",
}
"""Tags that may explain a difference."""


def comparisons(first: RecordedRun, second: RecordedRun) -> tuple[Comparison, ...]:
    """Compare digests, metrics other than times, and circumstances that may explain a difference."""
    pairs = [
        Comparison(what=subject, recorded=first.tags[tag], again=second.tags.get(tag, "none"))
        for subject, tag in DIGESTS.items()
        if tag in first.tags
    ]
    names = sorted({*first.metrics, *second.metrics})
    for name in names:
        if not name.startswith(TIMES):
            points = first.metrics.get(name, []), second.metrics.get(name, [])
            pairs.append(Comparison(what=name, recorded=_summary(*points), again=_summary(*points[::-1])))
    versions = {
        f"version of {tag.removeprefix('version.')}": tag
        for tag in sorted({*first.tags, *second.tags})
        if tag.startswith("version.")
    }
    for subject, tag in chain(CIRCUMSTANCES.items(), versions.items()):
        values = first.tags.get(tag, "none"), second.tags.get(tag, "none")
        pairs.append(Comparison(what=subject, recorded=values[0], again=values[1], is_result=False))
    devices = first.params.get("device.used", "none"), second.params.get("device.used", "none")
    pairs.append(Comparison(what="device", recorded=devices[0], again=devices[1], is_result=False))
    return tuple(pairs)


def _summary(points: list[tuple[int, float]], reference: list[tuple[int, float]]) -> str:
    """Return a metric's curve in a few words, which differ if any value does."""
    if not points:
        return "none"
    digest = hashlib.sha256(json.dumps(points).encode()).hexdigest()[:12]
    if len(points) == 1:
        return f"{points[0][1]!r}"
    apart = max((abs(a - b) for (_, a), (_, b) in zip(points, reference, strict=False)), default=math.nan)
    distance = f", up to {apart:.1e} apart" if apart > 0 else ""
    return f"{len(points)} values, the last {points[-1][1]:.6g} ({digest}{distance})"
