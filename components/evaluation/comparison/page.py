"""Two runs beside one another as one self-contained HTML page, and as lines for a terminal."""

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
from torchmill.components.wording import percent, points

SHARES = ("accuracy", "macro F1", "label accuracy", "all labels right")
# What a run records of itself and is no setting of anyone's.
FOUND = (".used", "parameters")


class Row(NamedTuple):
    """A difference in words."""

    measure: str
    first: str
    second: str
    difference: str
    interval: str
    verdict: str


def row(one: Difference) -> Row:
    """Tell a difference: shares in per cent, what is between them in percentage points."""
    low, high = one.difference_95
    if one.measure in SHARES:
        ends = f"{100 * low:+.2f} to {100 * high:+.2f}"
        return Row(
            one.measure,
            percent(one.first),
            percent(one.second),
            points(one.difference, sign=True),
            ends,
            one.verdict,
        )
    ends = f"{low:+.4f} to {high:+.4f}"
    return Row(one.measure, f"{one.first:.4f}", f"{one.second:.4f}", f"{one.difference:+.4f}", ends, one.verdict)


def verdict(pairing: Pairing) -> str:
    """Say in a word or three how the second is, by what is looked at first."""
    return pairing.differences[0].verdict


def summary(pairing: Pairing, first: str, second: str) -> str:
    """Say in a sentence what the verdict rests on."""
    told = row(pairing.differences[0])
    return (
        f"{told.measure.capitalize()}: {told.second} of {second}, {told.first} of {first}, a difference of "
        f"{told.difference} (95 %: {told.interval})."
    )


def differing(first: RecordedRun, second: RecordedRun) -> list[tuple[str, str, str]]:
    """Give settings, versions and circumstances that are not the same: what, and both values."""
    names = [name for name in sorted({*first.params, *second.params}) if not name.endswith(FOUND)]
    found = [(name, first.params.get(name, "none"), second.params.get(name, "none")) for name in names]
    versions = sorted(tag for tag in {*first.tags, *second.tags} if tag.startswith("version."))
    named = CIRCUMSTANCES | {f"version of {tag.removeprefix('version.')}": tag for tag in versions}
    found += [(what, first.tags.get(tag, "none"), second.tags.get(tag, "none")) for what, tag in named.items()]
    return [(what, one, other) for what, one, other in found if one != other]


def write_comparison(first: RecordedRun, second: RecordedRun, pairing: Pairing, measure: str, folder: Path) -> Path:
    """Write the page into a folder, as ``compare.html``."""
    contents = {
        "first": first,
        "second": second,
        "data": first.params.get("data.name", "the same data"),
        "pairing": pairing,
        "verdict": verdict(pairing).capitalize(),
        "summary": summary(pairing, first.name, second.name),
        "rows": [row(one) for one in pairing.differences],
        "chart": _chart(pairing),
        "curves": _curves(first, second, ("loss", measure)),
        "differing": differing(first, second),
    }
    write_text(folder / "compare.html", render("compare.html.j2", **contents))
    return folder / "compare.html"


def _chart(pairing: Pairing) -> Markup:
    rows = [
        Bar(one.measure, one.difference, *one.difference_95, row(one).difference, one.verdict == "worse")
        for one in pairing.differences
        if one.measure in SHARES
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
        drawn.append(charts.lines(series, "epoch", name.replace("_", " ")))
    return drawn
