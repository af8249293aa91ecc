"""Measure everything, write RESULTS.md and the README's table: `make bench`, or `python -m benchmarks PART`.

Absolute timings don't carry over to another machine, and drift even on one. So each result is a ratio of two things
measured in turn, A B A B. We quote the median ratio with the smallest and the largest.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.measure import Claim
from benchmarks.tables import readme_table, results_page, with_table

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
    "forms",
    "time_to_99",
    "task_speed",
    "tasks",
    "growth",
    "growth_of_steps",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--tables", action="store_true", help="write the tables again without measuring")
    options = parser.parse_args()
    chosen = () if options.tables else options.parts or PARTS
    if unknown := set(chosen) - set(PARTS):
        sys.exit(f"No part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    file = HERE / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    write_tables(results)
    for part in chosen:
        print(f"== {part}", flush=True)
        claims: list[Claim] = importlib.import_module(f"benchmarks.{part}").measure()
        results[part] = {"machine": machine(), "claims": [claim.as_dict() for claim in claims]}
        file.write_text(json.dumps(results, indent=1) + "\n")
        write_tables(results)


def machine() -> str:
    names = ("torch", "torchvision", "prefect", "mlflow", "onnxruntime")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    # Imports take twice as long if Python can't cache bytecode.
    torch = importlib.util.find_spec("torch")
    compiled = torch is not None and torch.cached is not None and Path(torch.cached).exists()
    versions += f", libraries {'' if compiled else 'not '}compiled ahead"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, {versions}"


def write_tables(results: dict) -> None:
    """Write RESULTS.md and the table of README.md."""
    (HERE / "RESULTS.md").write_text(results_page(results, PARTS), encoding="utf-8")
    readme = HERE.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(with_table(text, readme_table(results, PARTS)), encoding="utf-8")


if __name__ == "__main__":
    main()
