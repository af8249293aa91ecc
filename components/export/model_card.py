"""A page about a model for those who deploy it, in the form of a model card (Mitchell et al. 2019)."""

import json
from collections.abc import Mapping
from pathlib import Path

import onnx

from torchmill.components.encoding.columns import Columns
from torchmill.components.errors import shortened
from torchmill.components.files import write_text
from torchmill.components.onnx_model import names
from torchmill.components.refs import DataRef, EvaluationRef, ExportRef, NetworkRef
from torchmill.components.tasks import shown
from torchmill.components.wording import percent

BY_COLUMNS = """\
row = {row}
columns = json.loads(session.get_modelmeta().custom_metadata_map['columns'])
numbers = []
for column in columns:  # a number, or a 0 or 1 for each category
    cell = row[column['name']]
    numbers += [cell == kind for kind in column['categories']] if 'categories' in column else [float(cell)]
features = np.array([numbers], np.float32)  # (batch, {width})"""
COLUMNS_SHOWN = 30


def write_card(
    folder: Path,
    network: NetworkRef,
    data: DataRef,
    scores: EvaluationRef,
    model: ExportRef,
    made_by: Mapping[str, str],
) -> Path:
    """Write ``MODEL_CARD.md`` into ``folder`` about a model that passed, from what was found.

    Args:
        model: whose files may be an earlier run's.
        made_by: run, commit and whatever else tells where it came from.
    """
    parity = json.loads(model.report.path.read_text(encoding="utf-8"))
    proto = onnx.load(str(model.onnx.path))
    described = {entry.key: entry.value for entry in proto.metadata_props}
    measure = scores.measure.replace("_", " ")
    low, high = (shown(scores.measure, value) for value in (scores.score_low, scores.score_high))
    files = {one.path.name: one.sha256 for one in (model.onnx, model.example, *model.smaller) if one}
    name = proto.graph.input[0].name
    snippet = data.field.snippet(data.shape)
    columns = (
        Columns.from_json(described[names.COLUMNS])
        if not data.field.is_sequence and names.COLUMNS in described
        else None
    )
    if columns:
        row = {one.name: one.categories[0] if one.categories else 0 for one in columns.columns}
        snippet = BY_COLUMNS.format(row=repr(row), width=len(columns.features))
    imports = "import json\n\n" * ("json." in snippet) + "import numpy as np\nimport onnxruntime\n"
    imports += "from PIL import Image\n" * ("Image." in snippet)
    lines = [
        f"# {network.reference} on {data.name}",
        "",
        f"**{measure.capitalize()} {shown(scores.measure, scores.score)}** on {scores.samples:,} test samples "
        f"(95 % interval {low} to {high}). {network.parameters:,} parameters.",
        "",
        "| | |",
        "|---|---|",
        f"| Input `{name}` | {described[names.INPUT]} |",
        f"| Prepared within | {described[names.PREPROCESSING]} |",
        f"| Output | {described[names.OUTPUT]} |",
        f"| Answers | {shortened(data.classes, 12)} |",
        *([f"| Temperature | {described[names.TEMPERATURE]} |"] if names.TEMPERATURE in described else []),
        "",
        "```python",
        imports,
        "session = onnxruntime.InferenceSession('model.onnx')",
        snippet,
        f"print(session.run(None, {{'{name}': {name}}}))",
        "```",
        "",
        *(_column_lines(columns) if columns else ()),
        "## What it is for",
        "",
        f"Inputs like those of {data.name}: {data.train_size:,} training samples of {data.outputs}. What else it is "
        "given it answers, too, and as surely. For whom it is fair or safe was not looked at.",
        "",
        "## How it was proven",
        "",
        f"Compared with the network it came from on {parity['samples']:,} test samples at batch sizes "
        f"{', '.join(str(one['batch_size']) for one in parity['by_batch_size'])}, in float64: largest difference "
        f"{parity['max_abs_diff']:.1e} of {parity['allowed']:.1e} allowed, {percent(parity['agreement'])} of the "
        "answers agree.",
        "",
        *(f"- {gate['name']}: {gate['evidence']}" for gate in parity["gates"]),
        "",
        "`example.npz` holds a few inputs and all outputs to replay.",
        "",
        "## Where it came from",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in made_by.items() if value),
        f"| Data | {data.name}, {data.source}, sha256 {data.sha256} |",
        *(f"| {file} | sha256 {digest} |" for file, digest in files.items()),
    ]
    path = folder / "MODEL_CARD.md"
    write_text(path, "\n".join(lines) + "\n")
    return path


def _column_lines(columns: Columns) -> list[str]:
    """A table of what stands in a row."""
    lines = ["| Column | Holds |", "|---|---|"]
    for one in columns.columns[:COLUMNS_SHOWN]:
        lines.append(f"| {one.name} | {shortened(one.categories, 12) if one.categories else 'a number'} |")
    more = len(columns.columns) - COLUMNS_SHOWN
    return [*lines, *([f"| and {more} more | see `columns` in the metadata |"] if more > 0 else []), ""]
