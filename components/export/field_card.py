"""A model card for a model of a task over named fields."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.field_run import fields_taken
from torchmill.components.onnx_model.proto import metadata_of, read_without_weights
from torchmill.components.refs import DataRef, EvaluationRef, ExportRef, NetworkRef
from torchmill.components.tasks import shown, title
from torchmill.components.wording import as_markdown, markdown_table


def field_card(
    network: NetworkRef,
    data: DataRef,
    scores: EvaluationRef,
    model: ExportRef,
    parity: Mapping[str, Any],
    made_by: Mapping[str, str],
) -> list[str]:
    """Return the lines of a card: score, inputs and outputs by name, a program that calls the model, and its proof."""
    assert data.goal
    metadata = metadata_of(read_without_weights(model.onnx.path))
    fields = fields_taken(metadata)
    low, high = (shown(scores.measure, end) for end in (scores.score_low, scores.score_high))
    with np.load(model.example.path) as example:
        shapes = {name: (example[name].dtype, example[name].shape[1:]) for name in example.files}
    rows = [("input " * (name in {field.name for field in fields}) or "output ", name) for name in shapes]
    described = [
        (f"{kind}`{name}`", f"{shapes[name][0]} (batch{''.join(f', {side}' for side in shapes[name][1])})")
        for kind, name in rows
    ]
    arguments = ", ".join(f'"{field.name}": example["{field.name}"]' for field in fields)
    return [
        f"# {as_markdown(network.reference)} on {as_markdown(data.name)}",
        "",
        f"**{title(scores.measure).capitalize()} {shown(scores.measure, scores.score)}** on {scores.samples:,} test "
        f"samples (95 % interval {low} to {high}). Task: {as_markdown(data.goal.title)}. {network.parameters:,} "
        "parameters.",
        "",
        *markdown_table(["", ""], "ll", described),
        "",
        "Inputs are taken as the data has them: the model standardizes them itself.",
        *_on_files(fields, metadata),
        "",
        "## Use",
        "",
        "```python",
        "import numpy as np",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{model.onnx.path.name}")',
        f'example = np.load("{model.example.path.name}")  # a few test samples, and the answers to them',
        f"answers = session.run(None, {{{arguments}}})",
        "for output, answer in zip(session.get_outputs(), answers):",
        "    print(output.name, answer.shape, np.allclose(answer, example[output.name], atol=1e-4))",
        "```",
        "",
        "## Proof",
        "",
        f"Compared with the network in float64 on {parity['samples']:,} test samples: largest difference "
        f"{model.max_abs_diff:.1e} (allowed {parity['allowed']:.1e}); of answers that are whole numbers, "
        f"{100 * model.agreement:.2f} % are equal.",
        "",
        *markdown_table(["", ""], "ll", [(name, value) for name, value in made_by.items() if value]),
        "",
        f"Data: {as_markdown(data.name)}, sha256 {data.sha256}. Model: sha256 {model.onnx.sha256}.",
    ]


def _on_files(fields: Sequence[FieldRef], metadata: Mapping[str, str]) -> list[str]:
    """Return sentences on texts and sounds, whose files ``torchmill predict`` reads."""
    lines = []
    if texts := [f"`{field.name}`" for field in fields if field.text]:
        key = names.TOKENIZER if names.TOKENIZER in metadata else names.VOCABULARY
        how = f"become ids by the {key} in the file's metadata, as `torchmill predict` does"
        lines.append(f"The texts of {', '.join(texts)} {how}.")
    for field in fields:
        if field.sound:
            lines.append(f"`{field.name}` is sound of {field.sound.rate:,} Hz, from -1 to 1.")
    return lines
