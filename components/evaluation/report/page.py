"""A run as one self-contained HTML page: nothing is loaded from anywhere, on a phone it is readable, too."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from torchmill.components.config import RunConfig
from torchmill.components.evaluation.evaluation import Attribution, Bin, ClassEntry, Evaluation, Slice
from torchmill.components.evaluation.report import charts
from torchmill.components.evaluation.report.charts import Bar, Point, Series
from torchmill.components.evaluation.report.summary import summary
from torchmill.components.files import write_text
from torchmill.components.refs import DataRef, EvaluationRef, ExportRef, FileRef, FitRef, PromotionRef, RunRef, StepRef
from torchmill.components.state_files import read_json
from torchmill.components.tasks import shown, title
from torchmill.components.wording import count, percent

LARGEST_PICTURE = 900_000
"""Bytes; larger ones are left out, so that the page stays below 5 MB."""
MOST_CLASSES = 60
MOST_ROWS, MOST_LABELS = 100, 6
"""In charts with a line for each: the lowest ones are shown."""
MOST_TOLD = 5
"""Groups of samples in the summary."""
MOST_CELLS = 20
"""Classes whose confusion is a table; beyond that it is the picture."""


@dataclasses.dataclass(frozen=True)
class Record:
    """All that is known of a run that has come to its end."""

    config: RunConfig
    trained: FitRef
    scores: EvaluationRef
    model: ExportRef | None
    """None where it was not published."""
    data: DataRef
    version: str | None
    """Of the registered model."""
    promotion: PromotionRef | None
    steps: Mapping[str, StepRef]
    run: RunRef
    curves: Mapping[str, Sequence[tuple[int, float]]]
    """Metrics by name: epochs and values."""
    inspection: FileRef | None = None
    """Findings on the data, as JSON, with the sheet of samples beside it."""
    check: FileRef | None = None
    """The doctor's verdicts, as JSON."""
    failure: str = ""
    """Why the run ended without a model."""


def write_page(record: Record) -> Path:
    """Write ``report.html`` into the run's folder."""
    path = record.run.folder / "report.html"
    write_text(path, render("report.html.j2", **_contents(record)))
    return path


def render(template: str, **contents: Any) -> str:
    """Fill a template of this folder in. What comes from users, as names of classes, is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**contents)


def _contents(record: Record) -> dict[str, Any]:
    data, scores = record.data, record.scores
    evaluation = Evaluation.read(scores.report.path)
    inspection, check = (_read(ref.path) if ref else None for ref in (record.inspection, record.check))
    parity = _read(record.model.report.path if record.model else record.run.folder / "parity.json")
    samples = record.inspection.path.parent / "samples.png" if record.inspection else None
    pictures = {picture.path.name: inlined(picture.path) for picture in (scores.picture, *scores.pictures)}
    return {
        "record": record,
        "config": record.config,
        "name": record.run.name,
        "measure": title(data.measure),
        "score": shown(data.measure, scores.score),
        "interval": [shown(data.measure, end) for end in (scores.score_low, scores.score_high)],
        "evaluation": evaluation,
        "rows": summary(evaluation, "" if data.goal else data.task),
        "to_look_at": to_look_at(record, evaluation, inspection, check),
        "curves": _curves(record),
        "classes": _classes(evaluation, data),
        "class_rows": _class_rows(evaluation),
        "calibration": _calibration(evaluation),
        "ranking": _ranking(evaluation),
        "residuals": _residuals(evaluation),
        "robustness": _robustness(evaluation),
        "groups": _groups(evaluation),
        "confusion": _confusion(evaluation, data),
        "attributions": [_coloured(text) for text in evaluation.saliency.texts],
        "pictures": pictures,
        "samples": inlined(samples) if samples else None,
        "inspection": inspection,
        "check": check,
        "parity": parity,
        "settings": _settings(record.config),
        "seconds": sum(step.seconds for step in record.steps.values()) or 1.0,
        "percent": percent,
        "shown": shown,
        "points": lambda share: f"{100 * share:+.2f}",
    }


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path, dict)


def inlined(path: Path) -> str | None:
    """Give a picture as an address that holds it; None where there is none, or it is too large for a page."""
    if not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
        return None
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def to_look_at(
    record: Record, evaluation: Evaluation, inspection: Mapping[str, Any] | None, check: Mapping[str, Any] | None
) -> list[str]:
    """Say in a few sentences what of a run deserves a look."""
    notes = _worse_groups(evaluation)
    if evaluation.robustness:
        plain, *others = evaluation.robustness.changes
        worst = min(others, key=lambda change: change.score)
        if worst.score_95[1] < plain.score_95[0]:
            measure = record.data.measure
            before, after = shown(measure, plain.score), shown(measure, worst.score)
            notes.append(f"Changed images ({worst.images}) bring the score from {before} to {after}.")
    if calibration := evaluation.calibration:
        temperature, before, after = calibration.temperature, calibration.before, calibration.after
        sure = "too sure of itself" if temperature > 1 else "less sure than it may be"
        if abs(temperature - 1) > 0.1 and after.loss < before.loss:
            notes.append(
                f"The network is {sure}. With its logits divided by {temperature:.2f}, probabilities miss by "
                f"{percent(after.ece, 1)} on average instead of {percent(before.ece, 1)}."
            )
    if inspection and (suspects := len(inspection.get("suspects", []))):
        number = inspection.get("suspect_count", suspects)
        notes.append(f"{count(number, 'label')} of the training data {'is' if number == 1 else 'are'} doubtful.")
    if inspection and inspection.get("leakage"):
        notes.append(f"{percent(inspection['leakage'])} of the test samples are also in training or validation.")
    warned = [verdict for verdict in (check or {}).get("verdicts", []) if verdict["verdict"] != "pass"]
    for verdict in warned:
        check_name = verdict["check"].replace("_", " ")
        notes.append(f"The doctor on {check_name}: {verdict['evidence']} {verdict['remedy']}")
    if record.trained.best_epoch == record.trained.epochs and not record.trained.stopped_early:
        notes.append("The last epoch was the best: more of them may give more.")
    return notes


def _worse_groups(evaluation: Evaluation) -> list[str]:
    """Name the groups of samples that are wrong more often than the others."""
    groups = evaluation.error_slices
    notes = []
    for by in dict.fromkeys(group.by for group in groups):
        members = [group for group in groups if group.by == by]
        mean = sum(group.errors for group in members) / max(1, sum(group.samples for group in members))
        worse = sorted((group for group in members if group.stands_out and group.rate > mean), key=_rate)
        if worse:
            named = ", ".join(f"{group.name} ({percent(group.rate, 1)})" for group in worse[:MOST_TOLD])
            more = f" and {len(worse) - MOST_TOLD} more" if len(worse) > MOST_TOLD else ""
            notes.append(
                f"Wrong more often than chance explains, by {by}: {named}{more}; of all samples {percent(mean, 1)}."
            )
    return notes


def _rate(group: Slice) -> float:
    return -group.rate


def _curves(record: Record) -> list[Markup]:
    drawn = []
    for measure in ("loss", record.data.measure):
        series = [
            Series(split, [Point(*pair) for pair in record.curves.get(f"{split}_{measure}", [])], colour)
            for split, colour in (("train", "quiet"), ("validation", "a"))
        ]
        drawn.append(charts.lines(series, "epoch", title(measure), marked=record.trained.best_epoch))
    return drawn


def _classes(evaluation: Evaluation, data: DataRef) -> Markup | None:
    rows = [
        Bar(
            name,
            entry.recall,
            *entry.recall_95,
            f"{percent(entry.recall, 1)} of {entry.support:,}",
            entry.recall_95[1] < evaluation.measures[data.measure],
        )
        for name, entry in evaluation.classes.items()
        if entry.recall_95
    ]
    rows = sorted(rows, key=lambda row: row.value)[:MOST_CLASSES] if len(rows) > MOST_CLASSES else rows
    return charts.bars(rows) if rows else None


def _class_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """A table of the classes or labels, its heading first: of many the ones of the least F1."""
    entries = sorted(evaluation.classes.items(), key=lambda item: item[1].f1)
    if not entries:
        return []

    def with_interval(entry: ClassEntry, name: str) -> str:
        ends = getattr(entry, f"{name}_95")
        return f"{percent(getattr(entry, name), 1)} ({percent(ends[0], 1)} to {percent(ends[1], 1)})" if ends else "–"

    more = {"ece": "calibration error"} if entries[0][1].ece is not None else {}
    rows = [("", "samples", "precision (95 %)", "recall (95 %)", "F1", *more.values())]
    for name, entry in entries[:MOST_ROWS]:
        plain = (percent(getattr(entry, key), 1) for key in ("f1", *more))
        shares = with_interval(entry, "precision"), with_interval(entry, "recall")
        rows.append((name, f"{entry.support:,}", *shares, *plain))
    return rows


def _calibration(evaluation: Evaluation) -> list[Markup]:
    if not evaluation.calibration:
        labels = _calibrated_labels(evaluation)
        return [
            _reliability(entry.reliability, "probability of yes", f"share of {name}", "a") for name, entry in labels
        ]
    calibration = evaluation.calibration
    drawn = []
    for bins, name, colour in (
        (calibration.before.bins, "as it is", "quiet"),
        (calibration.after.bins, "with the temperature", "a"),
    ):
        drawn.append(_reliability(bins, "confidence", f"share that is right, {name}", colour))
        if calibration.temperature == 1:
            break
    return drawn


def _calibrated_labels(evaluation: Evaluation) -> list[tuple[str, ClassEntry]]:
    """Those of several labels that say the least how sure they are."""
    entries = [(name, entry) for name, entry in evaluation.classes.items() if entry.reliability]
    return sorted(entries, key=lambda entry: -(entry[1].ece or 0))[:MOST_LABELS]


def _reliability(bins: Sequence[Bin], x_title: str, y_title: str, colour: str) -> Markup:
    points = [Point(group.confidence, group.accuracy, *group.accuracy_95) for group in bins]
    series = [Series("", points, colour, joined=False)]
    return charts.lines(series, x_title, y_title, x_range=(0, 1), y_range=(0, 1), diagonal=True)


def _ranking(evaluation: Evaluation) -> list[Markup]:
    ranking = evaluation.ranking
    if not ranking:
        return []
    share = [number / 100 for number in range(101)]
    drawn = []
    for key, x, y in (
        ("true_positive_rate", "false positive rate", "true positive rate"),
        ("precision", "recall", "precision"),
    ):
        curve = Series("", [Point(a, b) for a, b in zip(share, getattr(ranking, key), strict=True)], "a")
        drawn.append(
            charts.lines([curve], x, y, x_range=(0, 1), y_range=(0, 1.02), diagonal=key == "true_positive_rate")
        )
    return drawn


def _residuals(evaluation: Evaluation) -> list[Markup]:
    drawn = []
    for name, target in list(evaluation.targets.items())[:6]:
        pairs = zip(target.residuals.truth, target.residuals.answer, strict=True)
        points = [Point(answer, answer - truth) for truth, answer in pairs]
        drawn.append(charts.lines([Series("", points, "a", joined=False)], "answer", f"{name}: answer minus truth"))
    return drawn


def _robustness(evaluation: Evaluation) -> Markup | None:
    if not (robustness := evaluation.robustness):
        return None
    (plain, *_) = robustness.changes
    rows = [
        Bar(
            change.images,
            change.score,
            *change.score_95,
            percent(change.score, 1),
            change.score_95[1] < plain.score_95[0],
        )
        for change in robustness.changes
    ]
    return charts.bars(rows, plain.score)


def _groups(evaluation: Evaluation) -> list[tuple[str, Markup]]:
    drawn = []
    groups = evaluation.error_slices
    for by in dict.fromkeys(group.by for group in groups if group.by != "class"):
        rows = [
            Bar(
                group.name,
                group.rate,
                *group.rate_95,
                f"{percent(group.rate, 1)}, {group.errors:,} of {group.samples:,}",
                group.stands_out,
            )
            for group in groups
            if group.by == by
        ]
        drawn.append((by, charts.bars(rows)))
    return drawn


def _confusion(evaluation: Evaluation, data: DataRef) -> list[dict[str, Any]] | None:
    if not evaluation.confusion or len(data.classes) > MOST_CELLS:
        return None
    rows = []
    for number, (name, counts) in enumerate(zip(data.classes, evaluation.confusion.counts, strict=True)):
        most = max(1, sum(counts))
        cells = [
            {"count": count, "right": at == number, "shade": round(count / most, 3)} for at, count in enumerate(counts)
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _coloured(text: Attribution) -> dict[str, Any]:
    """Tokens with how strongly each is coloured, from -1 to 1."""
    strongest = max(map(abs, text.attributions), default=0) or 1
    pairs = zip(text.tokens, text.attributions, strict=True)
    return {**text.model_dump(), "coloured": [(token, round(value / strongest, 3)) for token, value in pairs]}


def _settings(config: RunConfig) -> list[tuple[str, str, bool]]:
    """All settings by name: the value, and whether it is another than the default."""
    defaults = RunConfig().flat()
    return [(name, value, defaults.get(name) != value) for name, value in config.flat().items()]
