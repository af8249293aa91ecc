"""A run in words: one page of Markdown for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchmill.components.config import RunConfig
from torchmill.components.evaluation.evaluation import Evaluation
from torchmill.components.files import write_text
from torchmill.components.refs import DataRef, EvaluationRef, ExportRef, FitRef, PromotionRef, RunRef, StepRef
from torchmill.components.state_files import require_json
from torchmill.components.tasks import shown, title
from torchmill.components.training.config import TrainConfig
from torchmill.components.wording import as_markdown, markdown_table, percent


def write_report(
    config: RunConfig,
    trained: FitRef,
    scores: EvaluationRef,
    model: ExportRef,
    data: DataRef,
    version: str | None,
    promoted: PromotionRef | None,
    steps: Mapping[str, StepRef],
    run: RunRef,
) -> Path:
    """Write ``report.md`` into the run's folder."""
    evaluation = Evaluation.read(scores.report.path)
    parity = require_json(model.report.path, dict, "Run the same command again: the export is done anew.")
    measure = title(data.measure)
    early = ", stopped early" if trained.stopped_early else ""
    told = {"ran": "{:.1f} s", "resumed": "{:.1f} s since it was resumed", "cached": "done before"}
    seconds = ", ".join(f"{name} {told[step.state].format(step.seconds)}" for name, step in steps.items())
    registered = f"{config.registered_name} version {version}" if version else "not registered"
    rows = {
        "Training": f"{trained.epochs} epochs on {trained.device}{early}, {trained.samples_per_second:,.0f} samples/s",
        "Best epoch": f"{trained.best_epoch}: validation {measure} {shown(data.measure, trained.validation_score)}, "
        f"{_trained_by(config.train, data)} {trained.validation_loss:.4f}",
        f"Test {data.loss_words}": f"{scores.loss:.4f}",
        "ONNX model": f"{registered}; {percent(model.agreement)} of the answers agree, "
        f"largest difference {model.max_abs_diff:.1e} (allowed {parity['allowed']:.1e})",
        **_onnx_score(data, measure, parity),
        **({"Promotion": f"{promoted.outcome}: {promoted.reason}"} if promoted else {}),
        "Data": f"{data.name}, sha256 {data.sha256[:16]}…",
        "Time": seconds,
    }
    low, high = (shown(data.measure, value) for value in (scores.score_low, scores.score_high))
    lines = [
        f"# {as_markdown(run.name)}",
        "",
        f"**Test {measure} {shown(data.measure, scores.score)}** (95 % interval {low} to {high}, {scores.samples:,} "
        f"samples). {as_markdown(config.model.name)} on {as_markdown(data.name)}, "
        f"{trained.network.parameters:,} parameters.",
        "",
        *markdown_table(["", ""], "ll", rows.items()),
        "",
        *_scores(evaluation),
    ]
    report = run.folder / "report.md"
    write_text(report, "\n".join(lines) + "\n")
    return report


def _onnx_score(data: DataRef, measure: str, parity: Mapping[str, Any]) -> dict[str, str]:
    if "onnx_score" not in parity:  # of named fields all answers are compared, not their score
        return {}
    onnx, torch = (shown(data.measure, parity[f"{name}_score"]) for name in ("onnx", "torch"))
    return {f"{measure.capitalize()} of the ONNX model": f"{onnx} in onnxruntime, {torch} in torch"}


def _scores(evaluation: Evaluation) -> list[str]:
    """Return a table with a row per class or target, or per measure of a task over named fields."""
    if not evaluation.classes and not evaluation.targets:
        rows = [
            [title(name), shown(name, value), " to ".join(shown(name, end) for end in evaluation.intervals[name])]
            for name, value in evaluation.measures.items()
            if name in evaluation.intervals
        ]
        return markdown_table(["measure", "value", "95 % interval"], "lrr", rows)
    if evaluation.classes:
        rows = [
            [
                name,
                *(percent(getattr(score, measure)) for measure in ("precision", "recall", "f1")),
                f"{score.support:,}",
            ]
            for name, score in evaluation.classes.items()
        ]
        return markdown_table(["class", "precision", "recall", "F1", "samples"], "lrrrr", rows)
    header = ["target", "mean absolute error", "root mean squared error", "R²"]
    rows = [
        [name, f"{score.mae:.4g}", f"{score.rmse:.4g}", f"{score.r2:.4f}"] for name, score in evaluation.targets.items()
    ]
    return markdown_table(header, "lrrr", rows)


def _trained_by(config: TrainConfig, data: DataRef) -> str:
    """The loss of training and validation by name, which is another than the test's where it has arguments."""
    own = config.loss not in ("auto", "cross_entropy", "bce", "mse")
    arguments = ", ".join(f"{name} {value}" for name, value in config.loss_args.items())
    name = f"loss {config.loss}" if own else data.loss_words
    return f"{name} ({arguments})" if arguments else name
