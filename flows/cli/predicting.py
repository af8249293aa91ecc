"""The command that uses a model."""

import argparse
from pathlib import Path

from torchmill.flows.cli.parser import Command, Group, Parser


def _predict_options(parser: Parser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="an .onnx file, or a registered model: NAME, NAME@7, NAME@champion, champion"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help="images, folders, tables, texts, sounds, .npz or .npy, or your own file.py:function",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("predictions.csv"),
        metavar="FILE",
        help=".csv, .jsonl or .parquet (default: predictions.csv); .npz or .jsonl for tasks over named fields",
    )
    parser.add_argument("--no-probabilities", action="store_true", help="write only each label and its confidence")


def predict(options: argparse.Namespace) -> int:
    """Write a row for each input and print the file's path."""
    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.flows.predict import answer

    predictions = answer(options.model, options.inputs, options.output, not options.no_probabilities)
    print(predictions.output)
    return 0


GROUP = Group(
    "using a model",
    (Command("predict", "predict for images, tables or texts with an exported model", predict, _predict_options),),
)
