"""A model card for those who deploy a model (Mitchell et al. 2019)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchmill.components.encoding.columns import CATEGORICAL, NUMERIC, Column, Columns
from torchmill.components.errors import shortened
from torchmill.components.export.card_code import around_network, program
from torchmill.components.export.field_card import field_card
from torchmill.components.files import write_text
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.bare import is_bare
from torchmill.components.onnx_model.proto import metadata_of, read_without_weights
from torchmill.components.refs import DataRef, EvaluationRef, ExportRef, NetworkRef
from torchmill.components.state_files import require_json
from torchmill.components.tasks import shown, title
from torchmill.components.wording import as_markdown, markdown_table, percent

COLUMNS_SHOWN = 30


def write_card(
    folder: Path,
    network: NetworkRef,
    data: DataRef,
    scores: EvaluationRef,
    model: ExportRef,
    made_by: Mapping[str, str],
) -> Path:
    """Write ``MODEL_CARD.md`` into ``folder`` about a model that passed its checks.

    Args:
        model: files of the model; an earlier run may have written them.
        made_by: origin of the model by name: run, commit and the like. Empty values are left out.
    """
    parity = require_json(model.report.path, dict, "Run the same command again: the export is done anew.")
    if data.goal:
        path = folder / "MODEL_CARD.md"
        write_text(path, "\n".join(field_card(network, data, scores, model, parity, made_by)) + "\n")
        return path
    metadata = metadata_of(read_without_weights(model.onnx.path))
    columns = None
    if not data.field.is_sequence and names.COLUMNS in metadata:
        columns = Columns.from_json(metadata[names.COLUMNS])
    takes_cells = bool(columns and columns.take_gaps)
    named = f"{NUMERIC}, {CATEGORICAL}" if takes_cells else data.field.onnx_input
    input_name = data.field.bare_input if is_bare(metadata) else named
    lines = [
        *_summary_lines(network, data, scores),
        *_interface_lines(input_name, data, metadata),
        *_code_lines(model, data, metadata, columns),
        *(_column_lines(columns) if columns else ()),
        *_use_lines(data),
        *_proof_lines(parity),
        *_origin_lines(data, model, made_by),
    ]
    path = folder / "MODEL_CARD.md"
    write_text(path, "\n".join(lines) + "\n")
    return path


def _summary_lines(network: NetworkRef, data: DataRef, scores: EvaluationRef) -> list[str]:
    measure = title(scores.measure)
    low, high = (shown(scores.measure, value) for value in (scores.score_low, scores.score_high))
    return [
        f"# {as_markdown(network.reference)} on {as_markdown(data.name)}",
        "",
        f"**{measure.capitalize()} {shown(scores.measure, scores.score)}** on {scores.samples:,} test samples "
        f"(95 % interval {low} to {high}). {network.parameters:,} parameters.",
        "",
    ]


def _interface_lines(input_name: str, data: DataRef, metadata: Mapping[str, str]) -> list[str]:
    rows = {
        f"Input {input_name}": metadata[names.INPUT],
        "Prepared within": metadata[names.PREPROCESSING],
        "Output": metadata[names.OUTPUT],
        "Answers": shortened(data.classes, 12),
        **({"Temperature": metadata[names.TEMPERATURE]} if names.TEMPERATURE in metadata else {}),
    }
    return [*markdown_table(["", ""], "ll", rows.items()), ""]


def _code_lines(model: ExportRef, data: DataRef, metadata: Mapping[str, str], columns: Columns | None) -> list[str]:
    """Return a program that answers files, and Python for the bare form."""
    code = program(model.onnx.path.name, metadata, data, columns)
    arguments = data.field.card_code(data.shape, data.rules, columns).arguments
    pillow = " pillow" * ("from PIL " in code)
    beside = " and ".join(f"`{file.path.name}`" for file in (model.onnx, *model.weights))
    lines = [
        "## Use",
        "",
        f"Save this as `answer.py` beside {beside}:",
        "",
        "```python",
        code.rstrip("\n"),
        "```",
        "",
        "```bash",
        "python -m venv env",
        f"env/bin/python -m pip install onnxruntime numpy{pillow}",
        f"env/bin/python answer.py {arguments}",
        "```",
        "",
    ]
    if model.triton:
        lines += [
            f"For Triton Inference Server: `models/NAME/config.pbtxt` and `models/NAME/1/{model.onnx.path.name}`.",
            "",
        ]
    if model.bare:
        lines += [
            f"`{model.bare.path.name}` is the network alone. What belongs around it:",
            "",
            "```python",
            "# preprocess.py",
            "import numpy as np\n",
            around_network(metadata_of(read_without_weights(model.bare.path)), data, columns).rstrip("\n"),
            "```",
            "",
        ]
    return lines


def _use_lines(data: DataRef) -> list[str]:
    return [
        "## Intended use",
        "",
        f"Inputs like those of {as_markdown(data.name)}: {data.train_size:,} training samples of {data.outputs}. "
        "The model answers any other input, too, and just as confidently. Fairness and safety were not examined.",
        "",
    ]


def _proof_lines(parity: Mapping[str, Any]) -> list[str]:
    """Return the comparison with the network and the findings of the gates, from ``parity.json``."""
    sizes = ", ".join(str(comparison["batch_size"]) for comparison in parity["by_batch_size"])
    return [
        "## Verification",
        "",
        f"Compared with the trained network on {parity['samples']:,} test samples at batch sizes {sizes}, in float64: "
        f"largest difference {parity['max_abs_diff']:.1e} of {parity['allowed']:.1e} allowed, "
        f"{percent(parity['agreement'])} of the answers agree.",
        "",
        *(f"- {as_markdown(gate['name'])}: {as_markdown(gate['evidence'])}" for gate in parity["gates"]),
        "",
        "`example.npz` holds a few inputs and all outputs to replay.",
        "",
    ]


def _origin_lines(data: DataRef, model: ExportRef, made_by: Mapping[str, str]) -> list[str]:
    files = {file.path.name: file.sha256 for file in model.files}
    rows = {label: value for label, value in made_by.items() if value}
    rows["Data"] = f"{data.name}, {data.source}, sha256 {data.sha256}"
    rows |= {file: f"sha256 {digest}" for file, digest in files.items()}
    return ["## Origin", "", *markdown_table(["", ""], "ll", rows.items())]


def _column_lines(columns: Columns) -> list[str]:
    """Return a table of the input's columns and their categories."""
    rows = [(column.name, _holds(column)) for column in columns.columns[:COLUMNS_SHOWN]]
    if (more := len(columns.columns) - COLUMNS_SHOWN) > 0:
        rows.append((f"and {more} more", "see columns in the metadata"))
    return [*markdown_table(["Column", "Holds"], "ll", rows), ""]


def _holds(column: Column) -> str:
    if column.categories:
        named = [category or "no value" for category in column.categories]
        return shortened([*named, *["other"] * column.has_other], 12)
    if column.is_date:
        kind = "a date and time" if column.has_times else "a date"
    else:
        offset = f", minus {column.offset:,.0f} before it becomes float32" if column.offset else ""
        ends = f", cut at {column.ends[0]:.5g} and {column.ends[1]:.5g}" if column.ends else ""
        kind = f"a number{offset}{ends}"
    if column.median is None:
        return kind
    marked = ", and marked" if column.has_gaps else ""
    return f"{kind}; without a value {column.shown_median}{marked}"
