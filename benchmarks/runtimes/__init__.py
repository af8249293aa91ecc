"""Exported models of every kind and task in the runtimes and converters that people use: equal, or refused there.

`python -m benchmarks.runtimes` installs each runtime apart from the others, into `.venv-bench-NAME`, runs both forms of
each model in it, and writes `results.json` and the table of docs/deploy-onnx.md. `python -m benchmarks.runtimes NAME`
measures one again.
"""
