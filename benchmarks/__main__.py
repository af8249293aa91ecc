"""Measure everything and write RESULTS.md: `make bench`, or `python -m benchmarks throughput` for one part.

Timings of a whole machine mean little on another, and drift even on one. So every claim is a ratio of two things run
in turn, A B A B, of which the median is quoted with the smallest and the largest.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.measure import Claim

HERE = Path(__file__).parent
PARTS = (
    "throughput",
    "together",
    "names_speed",
    "memory",
    "nothing_lost",
    "whole_run",
    "orchestrated",
    "image_folder",
    "predict",
    "time_to_99",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    chosen = parser.parse_args().parts or PARTS
    if unknown := set(chosen) - set(PARTS):
        sys.exit(f"No part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    kept = HERE / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for part in chosen:
        print(f"== {part}", flush=True)
        claims: list[Claim] = importlib.import_module(f"benchmarks.{part}").measure()
        results[part] = {"machine": machine(), "claims": [claim.as_dict() for claim in claims]}
        kept.write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "RESULTS.md").write_text(page(results), encoding="utf-8")


def machine() -> str:
    names = ("torch", "torchvision", "prefect", "mlflow", "onnxruntime")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    # Where Python keeps nothing that it compiles, imports take twice as long.
    torch = importlib.util.find_spec("torch")
    kept = torch is not None and torch.cached is not None and Path(torch.cached).exists()
    versions += f", libraries {'' if kept else 'not '}compiled ahead"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, {versions}"


def page(results: dict) -> str:
    lines = [
        "# Measured",
        "",
        "By `make bench`. Each row is a ratio of two things run in turn on one machine: the median of the pairs, and",
        "in brackets the smallest and the largest. How each is measured stands at the top of its file in this folder.",
    ]
    for part in PARTS:
        if part not in results:
            continue
        lines += ["", f"## {part.replace('_', ' ').capitalize()}", "", f"On {results[part]['machine']}.", ""]
        lines += ["| what | beside | ratio | to reach | each, median |", "|---|---|---|---|---|"]
        for claim in results[part]["claims"]:
            ratios = claim["ratios"]
            spread = (
                f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs)"
            )
            ours, other = (statistics.median(claim[side]) for side in ("ours", "other"))
            each = f"{ours:,.1f} and {other:,.1f} {claim['unit']}"
            lines.append(f"| {claim['what']} | {claim['beside']} | {spread} | {claim['reach']} | {each} |")
        lines += [f"\n{claim['note']}" for claim in results[part]["claims"] if claim["note"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
