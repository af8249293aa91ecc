"""The table of runtimes in docs/deploy-onnx.md, from ``results.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
DOCS = Path(__file__).parents[2] / "docs" / "deploy-onnx.md"
BEGIN, END = "<!-- runtimes: written by python -m benchmarks.runtimes -->", "<!-- end of runtimes -->"
EQUAL = 2e-3
"""Largest difference of logits that counts as equal: an order of sums, or values around a hundred in float32."""


def table(results: Mapping[str, Any]) -> str:
    """Return a row for each runtime: how many models of each form have equal answers, and which fail."""
    lines = ["| runtime | complete | bare |", "|---|---|---|"]
    for name, result in results.items():
        version = result["version"]
        title = name if version.startswith(name.split()[-1]) else f"{name} {version}"
        lines.append(f"| {title} | {_cell(result['models'], 'complete')} | {_cell(result['models'], 'bare')} |")
    return "\n".join(lines)


def _cell(models: Mapping[str, Mapping[str, Any]], form: str) -> str:
    chosen = {key.removesuffix(f" {form}"): found for key, found in models.items() if key.endswith(f" {form}")}
    refused = [name for name, found in chosen.items() if "failure" in found]
    wrong = [name for name, found in chosen.items() if found.get("difference", 0) > EQUAL]
    if wrong:
        return f"**wrong**: {', '.join(wrong)}"
    if not refused:
        return "equal"
    if len(refused) == len(chosen):
        return "refused"
    return f"equal; refused for {', '.join(refused)}"


def with_table(text: str, rows: str) -> str:
    """Return the page with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{rows}\n\n{END}{after}"


def measured() -> dict[str, Any]:
    """Return what was measured last."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))
