"""Two recorded runs beside one another: what is equal, down to the weights' digest, and what isn't."""

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import chain

from torchmill.components.refs import Comparison


@dataclass(frozen=True)
class RecordedRun:
    """What MLflow has of a run."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, list[tuple[int, float]]]
    """Values by step, in order."""


# What a run has by its nature only once: times and speeds.
TIMES = ("seconds.", "samples_per_second")
DIGESTS = {
    "data": "data.sha256",
    "first weights": "initial.sha256",
    "trained weights": "weights.sha256",
    "ONNX model": "onnx.sha256",
}
CIRCUMSTANCES = {
    "machine": "machine",
    "Torchmill's source": "torchmill.source",
    "git commit": "mlflow.source.git.commit",
}


def comparisons(first: RecordedRun, second: RecordedRun) -> tuple[Comparison, ...]:
    """Compare digests, all metrics but times, and the circumstances that may explain a difference."""
    found = [
        Comparison(what=what, recorded=first.tags[tag], again=second.tags.get(tag, "none"))
        for what, tag in DIGESTS.items()
        if tag in first.tags
    ]
    names = sorted({*first.metrics, *second.metrics})
    for name in names:
        if not name.startswith(TIMES):
            points = first.metrics.get(name, []), second.metrics.get(name, [])
            found.append(Comparison(what=name, recorded=_told(*points), again=_told(*points[::-1])))
    versions = {
        f"version of {tag.removeprefix('version.')}": tag
        for tag in sorted({*first.tags, *second.tags})
        if tag.startswith("version.")
    }
    for what, tag in chain(CIRCUMSTANCES.items(), versions.items()):
        pair = first.tags.get(tag, "none"), second.tags.get(tag, "none")
        found.append(Comparison(what=what, recorded=pair[0], again=pair[1], is_result=False))
    device = first.params.get("device.used", "none"), second.params.get("device.used", "none")
    found.append(Comparison(what="device", recorded=device[0], again=device[1], is_result=False))
    return tuple(found)


def _told(points: list[tuple[int, float]], others: list[tuple[int, float]]) -> str:
    """A metric's course in a few words, which differ where any value does."""
    if not points:
        return "none"
    digest = hashlib.sha256(json.dumps(points).encode()).hexdigest()[:12]
    if len(points) == 1:
        return f"{points[0][1]!r}"
    apart = max((abs(a - b) for (_, a), (_, b) in zip(points, others, strict=False)), default=math.nan)
    more = f", up to {apart:.1e} apart" if apart > 0 else ""
    return f"{len(points)} values, the last {points[-1][1]:.6g} ({digest}{more})"
