"""The commands that list networks and data sets, and that choose the champion among registered models."""

import argparse

from torchmill.components.data.config import dataset_names
from torchmill.components.errors import ConfigError
from torchmill.components.initialization.config import TORCHVISION, model_names
from torchmill.components.runs.folders import Runs
from torchmill.flows.cli import catalog
from torchmill.flows.cli.parser import TRUST, Command, Group, Parser

WIDTH = 19  # characters of the column of names


def _models_options(parser: Parser) -> None:
    parser.add_argument("family", nargs="?", metavar="torchvision", help="list torchvision's networks")


def list_models(options: argparse.Namespace) -> int:
    """Print the networks and the registered models."""
    if options.family:
        if options.family != TORCHVISION:
            raise ConfigError(f"Unknown '{options.family}'.", "`torchmill models torchvision` lists torchvision's.")
        from torchmill.components.initialization.torchvision import names

        print("\n".join(f"torchvision:{name}" for name in names()))
        return 0
    for name in model_names():
        entry = catalog.network(name)
        _print_row(name, entry.text, f"takes {entry.takes}; {entry.arguments}")
    _print_row(
        "torchvision:NAME",
        "any classification network of torchvision, adapted to channels, classes and size",
        "takes images; `torchmill models torchvision` lists them",
    )
    print("\nYour own: --model path/to/file.py:Class or package.module:Class. Arguments: --model.args.width 48")
    from torchmill.flows import promotion

    if lines := promotion.registered(Runs.here()):
        print("\nRegistered:", *lines, sep="\n")
    return 0


def list_datasets(_: argparse.Namespace) -> int:
    """Print the data sets."""
    for name in dataset_names():
        entry = catalog.data_set(name)
        _print_row(entry.reference, entry.text, entry.arguments)
    print(
        "\nYour own: --data path/to/file.py:function, which returns arrays or a Dataset. "
        "Arguments: --data.args.image_size 64"
    )
    return 0


def _print_row(name: str, *lines: str) -> None:
    print(f"{name:{WIDTH}}" + f"\n{'':{WIDTH}}".join(line for line in lines if line))


def _promote_options(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="its name in the registry, as `torchmill models` lists it")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="default: the challenger")
    parser.add_argument("--force", action="store_true", help="skip the comparison with the champion")
    parser.add_argument("--trust", action="store_true", help=TRUST)


def promote(options: argparse.Namespace) -> int:
    """Compare a version with the champion; the exit code is 1 if it stays challenger."""
    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.flows import promotion

    return promotion.promote(Runs.here().ready(), options.model, options.version, options.force, options.trust)


def _rollback_options(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="its name in the registry")


def roll_back(options: argparse.Namespace) -> int:
    """Make the former champion champion again."""
    from torchmill.flows import promotion

    return promotion.roll_back(Runs.here().ready(), options.model)


GROUP = Group(
    "networks, data and registered models",
    (
        Command("models", "list the networks and the registered models", list_models, _models_options),
        Command("datasets", "list the data sets", list_datasets, has_runs=False),
        Command("promote", "make a registered model the champion unless it is worse", promote, _promote_options),
        Command("rollback", "make the former champion champion again", roll_back, _rollback_options),
    ),
)
