"""The commands that train a network, and those that look at it before."""

import argparse
import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchmill.components import config as configuration
from torchmill.components.data.config import check_source
from torchmill.components.errors import ConfigError, UserError
from torchmill.components.processes import check_address_space
from torchmill.components.runs.folders import Runs
from torchmill.flows.cli.flow_commands import begin_flows
from torchmill.flows.cli.parser import Command, Group, Parser
from torchmill.flows.cli.settings import read_config

SAMPLE = 64
"""Training samples that a network is checked with."""
SETTINGS = ("data.name", "model.name", "train.epochs", "train.lr", "train.batch_size", "device", "name")
"""The most used settings of a training, in the help's order."""


def _train_options(parser: Parser) -> None:
    parser.add_argument("--fresh", action="store_true", help="use nothing of earlier runs")
    parser.add_argument("--explain", action="store_true", help="say of each step whether it ran, and why")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, the last line of stdout")
    parser.add_argument(
        "--profile", action="store_const", const="true", dest="train.profile", help="short for --train.profile"
    )


def train(options: argparse.Namespace) -> int:
    """Train, or show the result if nothing has changed since a finished run."""
    config = read_config(options)
    check_source(config.data.name)
    runs = Runs.here().ready()
    begin_flows()

    from torchmill.components import tracking
    from torchmill.components.runs import claim as claims
    from torchmill.components.runs import fingerprint
    from torchmill.components.training.distributed.launch import started_ahead
    from torchmill.flows.cli.console import show_log
    from torchmill.flows.cli.results import show_result

    show_log(options.explain)
    tracking.check_database(runs)
    decided = fingerprint.of_run(config, tracking.destination(runs))
    if not options.fresh and (finished := claims.find_result(runs, decided, tracking.still_recorded(runs))):
        print(f"Nothing has changed since run {finished.name}; --fresh trains anew.", file=sys.stderr)
        for name, step in finished.steps.items() if options.explain else ():
            print(f"{name}: {step.state}, {step.why}", file=sys.stderr)
        show_result(finished, runs, options.json)
        return 0

    from torchmill.flows.services import prefect_server
    from torchmill.flows.services.interpreter import collection_paused

    tracking.warm_up()
    # The server, the recorder and the training process start while this process imports torch.
    with prefect_server.at_hand(runs), started_ahead(config.train):
        with collection_paused():
            from torchmill.components.training import device
            from torchmill.flows.train import train

        with _failures_as_json(options.json):
            device.resolve(config.device)  # before anything is downloaded
            result = train(config, options.fresh)
    show_result(result, runs, options.json)
    return 0


@contextmanager
def _failures_as_json(is_asked_for: bool) -> Generator[None]:
    """Print a failure as JSON, too, and pass it on."""
    try:
        yield
    except UserError as error:
        if is_asked_for:
            print(json.dumps({"status": "FAILED", "error": str(error)}), flush=True)
        raise


CHECK_SETTINGS = ("data.name", "model.name", "model.args", "check.level")


def _check_options(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print the verdicts as one JSON object")
    level = "quick (seconds) or full: overfit a batch, export, check gradients (default here: full)"
    parser.settings["check.level"].help = level


def check(options: argparse.Namespace) -> int:
    """Check a network; the exit code is 1 if a check fails."""
    config = read_config(options)
    level = getattr(options, "check.level")
    if level is not None and config.check.level == "off":
        raise ConfigError("--check.level off is for train: this command always checks.", "Say quick or full.")
    if level is None:  # nobody waits for a training here
        config = config.model_copy(update={"check": configuration.CheckConfig(level="full")})

    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.components.doctor.check import check_network, subject_of

    with _failures_as_json(options.json):
        data, sample, network = _network(config)
        report = check_network(network, sample, data, config.train, config.check.level)
    subject = subject_of(config)
    if options.json:
        print(json.dumps(subject | report.as_json()), flush=True)
    else:
        print("; ".join(f"{name} {value}" for name, value in subject.items()), *report.terminal_lines(), sep="\n")
    return 1 if report.worst == "fail" else 0


def _network(config: configuration.RunConfig) -> tuple[Any, Any, Any]:
    """Return the data set, some of its samples, and the network with its first weights."""
    check_address_space()
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.data.reading import read_sample
    from torchmill.components.data.samples import Samples
    from torchmill.components.field_tasks.choice import for_task
    from torchmill.components.initialization.build import initialize
    from torchmill.components.initialization.standardized_model import standardized
    from torchmill.components.runs.folders import data_cache

    data = for_task(fetch(config.data.name, data_cache(), args=arguments(config.data)), config.task)
    sample = read_sample(data, SAMPLE, config.seed)
    inputs = standardized(sample, data) if isinstance(sample, Samples) else None
    network, _ = initialize(config.model, config.initialize, data, config.seed, inputs)
    return data, sample, network


DATA_SETTINGS = ("data.args", "data.validation_fraction")


def _data_options(parser: Parser) -> None:
    parser.add_argument("subject", nargs="?", metavar="NAME", help="data set, as --data takes it")
    parser.add_argument("--json", action="store_true", help="print the data set as one JSON object")


def data(options: argparse.Namespace) -> int:
    """Prepare a data set and print its summary."""
    if options.subject is not None:
        setattr(options, "data.name", options.subject)
    config = read_config(options)

    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.data.summary import summary
    from torchmill.components.runs.folders import data_cache

    with _failures_as_json(options.json):
        prepared = fetch(config.data.name, data_cache(), args=arguments(config.data))
    if options.json:
        print(prepared.model_dump_json(), flush=True)
    else:
        print(*summary(prepared), sep="\n")
    return 0


FIND_LR_SETTINGS = ("data.name", "model.name", "train.optimizer", "train.batch_size", "device")


def _find_lr_options(parser: Parser) -> None:
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw loss over learning rate into a .png")
    parser.add_argument("--json", action="store_true", help="print rates and losses as one JSON object")


def find_lr(options: argparse.Namespace) -> int:
    """Run a learning-rate range test."""
    config = read_config(options)

    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.components.data.reading import read_training
    from torchmill.components.training.device import resolve
    from torchmill.components.training.setup import TrainingSetup
    from torchmill.components.training.tuning.find_lr import find_lr

    device = resolve(config.device)
    data, _, network = _network(config)
    splits = read_training(data.with_split(config.data.validation_fraction, config.seed))
    curve = find_lr(TrainingSetup(network, *splits, data, config.train, device, config.seed))
    if options.plot:
        from torchmill.components.evaluation.plots import draw_rates

        draw_rates(curve.rates, curve.losses, curve.lr, options.plot)
    if options.json:
        print(json.dumps({"lr": curve.lr, "rates": curve.rates, "losses": curve.losses}), flush=True)
        return 0
    loss, rate = min(zip(curve.losses, curve.rates, strict=True))
    print(
        f"--train.lr {curve.lr:g}  a tenth of {rate:.2g}, where the loss is lowest: {loss:.4g}, "
        f"from {curve.losses[0]:.4g} at first"
    )
    return 0


def _join_options(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder that the first machine has printed")


def join(options: argparse.Namespace) -> int:
    """Join a training as one of its machines."""
    from torchmill.components.training.distributed.supervise import join

    join(options.folder)
    return 0


GROUP = Group(
    "training",
    (
        Command("train", "train a network, evaluate it and export it to ONNX", train, _train_options, SETTINGS),
        Command(
            "check", "find mistakes in a network before hours are spent on it", check, _check_options, CHECK_SETTINGS
        ),
        Command(
            "data", "prepare a data set and print its summary, with all guesses", data, _data_options, DATA_SETTINGS
        ),
        Command(
            "find-lr",
            "find the learning rate that suits a network and its data",
            find_lr,
            _find_lr_options,
            FIND_LR_SETTINGS,
        ),
        Command("join", "take part in a training of several machines", join, _join_options, has_runs=False),
    ),
)
