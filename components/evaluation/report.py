"""A run in words: one page of Markdown for people."""

import json
from collections.abc import Mapping
from pathlib import Path

from components.config import RunConfig
from components.files import write_text
from components.refs import DataRef, EvaluationRef, ExportRef, FitRef, RunRef, StepRef


def write_report(
    config: RunConfig,
    trained: FitRef,
    scores: EvaluationRef,
    model: ExportRef,
    data: DataRef,
    version: str | None,
    steps: Mapping[str, StepRef],
    run: RunRef,
) -> Path:
    """Write ``report.md`` into the run's folder."""
    evaluation = json.loads(scores.report.path.read_text(encoding="utf-8"))
    parity = json.loads(model.report.path.read_text(encoding="utf-8"))
    early = ", stopped early" if trained.stopped_early else ""
    told = {"ran": "{:.1f} s", "resumed": "{:.1f} s since it was resumed", "cached": "done before"}
    seconds = ", ".join(f"{name} {told[step.state].format(step.seconds)}" for name, step in steps.items())
    registered = f"{config.registered_name} version {version}" if version else "not registered"
    rows = {
        "Training": f"{trained.epochs} epochs on {trained.device}{early}, {trained.images_per_second:,.0f} images/s",
        "Best epoch": f"{trained.best_epoch}: validation accuracy {trained.validation_accuracy:.2%}, "
        f"loss {trained.validation_loss:.4f}",
        "Test loss": f"{scores.loss:.4f}",
        "ONNX model": f"{registered}; {model.agreement:.2%} of the answers agree, "
        f"largest difference {model.max_abs_diff:.1e} (allowed {parity['allowed']:.1e})",
        "Accuracy of the ONNX model": f"{parity['onnx_accuracy']:.2%} in onnxruntime, "
        f"{parity['torch_accuracy']:.2%} in torch",
        "Data": f"{data.name}, sha256 {data.sha256[:16]}…",
        "Time": seconds,
    }
    interval = f"95 % interval {scores.accuracy_low:.2%} to {scores.accuracy_high:.2%}"
    lines = [
        f"# {run.name}",
        "",
        f"**Test accuracy {scores.accuracy:.2%}** ({interval}, {scores.samples:,} images). "
        f"{config.model.name} on {data.name}, {trained.network.parameters:,} parameters.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {title} | {text} |" for title, text in rows.items()),
        "",
        "| class | precision | recall | F1 | images |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, score in evaluation["classes"].items():
        lines.append(
            f"| {name} | {score['precision']:.2%} | {score['recall']:.2%} | {score['f1']:.2%} | {score['support']:,} |"
        )
    report = run.folder / "report.md"
    write_text(report, "\n".join(lines) + "\n")
    return report
