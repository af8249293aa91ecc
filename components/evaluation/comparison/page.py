"""Comparison of two runs as one self-contained HTML page, and as lines for a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from torchmill.components.evaluation.report import charts
from torchmill.components.evaluation.report.charts import Bar, Point, Series
from torchmill.components.evaluation.report.page import render
from torchmill.components.files import write_text
from torchmill.components.metrics.paired import Difference, Pairing
from torchmill.components.runs.reproduction import CIRCUMSTANCES, RecordedRun
from torchmill.components.tasks import is_share, title
from torchmill.components.wording import percent, points

SHARES = ("accuracy", "macro F1", "label accuracy", "all labels right")
MEASURED = (".used", "parameters")
"""Endings of params that a run records about itself, and that are no settings."""


class Row(NamedTuple):
    """A difference in words."""

    measure: str
    first: str
    second: str
    difference: str
    interval: str
    verdict: str


def _is_share(measure: str) -> bool:
    return measure in SHARES or is_share(measure)


def row(difference: Difference) -> Row:
    """Format a difference: shares in per cent, differences of shares in percentage points."""
    low, high = difference.difference_95
    if _is_share(difference.measure):
        values = percent(difference.first), percent(difference.second), points(difference.difference, sign=True)
        ends = f"{100 * low:+.2f} to {100 * high:+.2f}"
    else:
        values = f"{difference.first:.4f}", f"{difference.second:.4f}", f"{difference.difference:+.4f}"
        ends = f"{low:+.4f} to {high:+.4f}"
    return Row(difference.measure, *values, ends, difference.verdict)


def verdict(pairing: Pairing) -> str:
    """Return the verdict on the second run by the main measure, in one to three words."""
    return pairing.differences[0].verdict


def summary(pairing: Pairing, first: str, second: str) -> str:
    """Return the evidence for the verdict as one sentence."""
    main = row(pairing.differences[0])
    return (
        f"{main.measure.capitalize()}: {main.second} of {second}, {main.first} of {first}, a difference of "
        f"{main.difference} (95 %: {main.interval})."
    )


def differing(first: RecordedRun, second: RecordedRun) -> list[tuple[str, str, str]]:
    """Return the settings, versions and circumstances that differ: name and both values."""
    names = [name for name in sorted({*first.params, *second.params}) if not name.endswith(MEASURED)]
    values = [(name, first.params.get(name, "none"), second.params.get(name, "none")) for name in names]
    versions = sorted(tag for tag in {*first.tags, *second.tags} if tag.startswith("version."))
    named = CIRCUMSTANCES | {f"version of {tag.removeprefix('version.')}": tag for tag in versions}
    values += [(name, first.tags.get(tag, "none"), second.tags.get(tag, "none")) for name, tag in named.items()]
    return [(name, before, after) for name, before, after in values if before != after]


def write_comparison(first: RecordedRun, second: RecordedRun, pairing: Pairing, measure: str, folder: Path) -> Path:
    """Write the page into a folder, as ``compare.html``."""
    contents = {
        "first": first,
        "second": second,
        "data": first.params.get("data.name", "the same data"),
        "pairing": pairing,
        "verdict": verdict(pairing).capitalize(),
        "summary": summary(pairing, first.name, second.name),
        "rows": [row(difference) for difference in pairing.differences],
        "chart": _chart(pairing),
        "curves": _curves(first, second, ("loss", measure)),
        "differing": differing(first, second),
    }
    write_text(folder / "compare.html", render("compare.html.j2", **contents))
    return folder / "compare.html"


def _chart(pairing: Pairing) -> Markup:
    rows = [
        Bar(each.measure, each.difference, *each.difference_95, row(each).difference, each.verdict == "worse")
        for each in pairing.differences
        if _is_share(each.measure)
    ]
    return charts.bars(rows, 0.0, limits=(-1.0, 1.0))


def _curves(first: RecordedRun, second: RecordedRun, measures: Sequence[str]) -> list[Markup]:
    drawn = []
    for measure in measures:
        name = f"validation_{measure}"
        series = [
            Series(run.name, [Point(*pair) for pair in run.metrics.get(name, []) if pair[0] > 0], colour)
            for run, colour in ((first, "quiet"), (second, "a"))
        ]
        drawn.append(charts.lines(series, "epoch", title(name)))
    return drawn
