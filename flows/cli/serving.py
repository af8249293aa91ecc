"""The commands of the services: the UIs, the schedules and the repair of a folder of runs."""

import argparse
from pathlib import Path

from torchmill.components.errors import ConfigError
from torchmill.components.runs.folders import Runs
from torchmill.flows.cli.parser import Command, Group, Parser
from torchmill.flows.cli.settings import read_config
from torchmill.flows.cli.training import SETTINGS
from torchmill.flows.services.prefect_server import silence_prefect


def _up_options(parser: Parser) -> None:
    parser.add_argument(
        "--mlflow-port", type=int, metavar="PORT", help="port of the MLflow UI (default: 5000 or a free one)"
    )
    parser.add_argument(
        "--prefect-port", type=int, metavar="PORT", help="port of the Prefect UI (default: 4200 or a free one)"
    )
    parser.add_argument(
        "--no-prewarm",
        action="store_true",
        help="don't keep a process with everything imported, which lets commands start at once (0.7 GB)",
    )
    parser.add_argument("--no-standby", action="store_true", dest="no_prewarm", help=argparse.SUPPRESS)  # former name


def up(options: argparse.Namespace) -> int:
    """Run the services until Ctrl-C."""
    from torchmill.flows.services.up import up

    return up(Runs.here().ready(), options.mlflow_port, options.prefect_port, not options.no_prewarm)


def _schedule_options(parser: Parser) -> None:
    parser.add_argument("--cron", metavar="CRON", help='minute hour day month weekday: "0 3 * * *" is 3 a.m.')
    parser.add_argument("--timezone", metavar="ZONE", help="zone of these times: Europe/Berlin (default: the system's)")
    parser.add_argument("--predict", metavar="MODEL", help="schedule predictions of this model instead of a training")
    parser.add_argument(
        "--inputs", nargs="+", type=Path, metavar="INPUT", help="with --predict: images, folders, tables or texts"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="with --predict: .csv, .jsonl or .parquet")
    parser.add_argument("--list", action="store_true", help="show the schedules")
    parser.add_argument("--remove", metavar="NAME", help="remove a schedule")


def schedule(options: argparse.Namespace) -> int:
    """Add, list or remove schedules."""
    config = read_config(options)
    if not (options.cron or options.list or options.remove):
        raise ConfigError(
            "Schedule needs --cron, --list or --remove NAME.",
            'For example: torchmill schedule --cron "0 3 * * *" --data mnist',
        )
    runs = Runs.here().ready()

    from torchmill.flows.services import schedule

    if options.list:
        return schedule.show(runs)
    if options.remove:
        return schedule.remove(runs, options.remove)
    if not options.predict:
        return schedule.add(runs, config, options.cron, options.timezone)
    if not (options.inputs and options.output):
        raise ConfigError("Schedule --predict needs --inputs and --output.", "See torchmill schedule --help.")
    work = (options.predict, options.inputs, options.output)
    return schedule.add_prediction(runs, *work, config.name, options.cron, options.timezone)


def _repair_options(parser: Parser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def repair(options: argparse.Namespace) -> int:
    """Repair a folder of runs; the exit code is 1 if a server that it needs is away."""
    silence_prefect()

    from torchmill.flows.services.repair import repair

    return repair(Runs.here().ready(), options.dry_run)


GROUP = Group(
    "services",
    (
        Command("up", "run the MLflow UI, the Prefect UI and the schedules until Ctrl-C", up, _up_options),
        Command("schedule", "start trainings or predictions by the clock", schedule, _schedule_options, SETTINGS, True),
        Command("repair", "close crashed runs, send records, follow a moved folder", repair, _repair_options),
    ),
)
