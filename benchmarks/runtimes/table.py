"""The table of runtimes in docs/deploy-onnx.md, from ``results.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
DOCS = Path(__file__).parents[2] / "docs" / "deploy-onnx.md"
MARKS = ("<!-- runtimes: written by python -m benchmarks.runtimes -->", "<!-- end of runtimes -->")
"""Lines in the page that the table stands between."""
EQUAL = 2e-3
"""Largest difference of logits that counts as equal: an order of sums, or values around a hundred in float32."""


def table(results: Mapping[str, Any]) -> str:
    """Return a row for each runtime: how many models of each form have equal answers, and which fail."""
    lines = ["| runtime | complete | bare |", "|---|---|---|"]
    for name, result in results.items():
        version = result["version"]
        title = name if version.startswith(name.split()[-1]) else f"{name} {version}"
        lines.append(f"| {title} | {_cell(result['models'], 'complete')} | {_cell(result['models'], 'bare')} |")
    return "\n".join(["", *lines, ""])


def _cell(models: Mapping[str, Mapping[str, Any]], form: str) -> str:
    findings = {key.removesuffix(f" {form}"): finding for key, finding in models.items() if key.endswith(f" {form}")}
    refused = [name for name, finding in findings.items() if "failure" in finding]
    wrong = [name for name, finding in findings.items() if finding.get("difference", 0) > EQUAL]
    if wrong:
        return f"**wrong**: {', '.join(wrong)}"
    if not refused:
        return "equal"
    if len(refused) == len(findings):
        return "refused"
    equal = [name for name in findings if name not in refused]
    if len(equal) < len(refused):
        return f"{', '.join(equal)} equal; others refused"
    return f"equal; {', '.join(refused)} refused"


def measured() -> dict[str, Any]:
    """Return the last findings, by runtime."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))
