"""The command line."""

import argparse
import atexit
import gc
import json
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from torchmill.components import config as configuration
from torchmill.components.data.config import dataset_names
from torchmill.components.errors import ConfigError, UserError, nearest
from torchmill.components.initialization.config import TORCHVISION, model_names
from torchmill.components.refs import TrainResult
from torchmill.components.runs.folders import Runs
from torchmill.components.section import Named
from torchmill.components.tasks import shown
from torchmill.flows.cli import catalog as catalogue
from torchmill.flows.services.prewarm.server import hand_over

SAMPLE = 64  # of training, with which a network is examined

# torch, prefect and mlflow take seconds to import: whoever asks for help or mistypes a name doesn't wait for them.


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[0].upper()}{message[1:]}.", f"See {self.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit code: 0, 1 for what went wrong, 2 for what was mistyped."""
    try:
        leave(run(list(sys.argv[1:] if arguments is None else arguments)))
    except UserError as error:
        print(f"torchmill: {error}", file=sys.stderr)
        leave(error.exit_code)
    except KeyboardInterrupt:
        print("torchmill: stopped.", file=sys.stderr)
        leave(130)
    except SystemExit as error:  # of a signal
        if not isinstance(error.code, int):
            raise
        leave(error.code)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        leave(141)


def leave(code: int) -> NoReturn:
    """End this process as Python does, but let the system free its memory.

    Threads are waited for, exit handlers run (Prefect sends its last logs in one) and streams flushed. What is left
    out is the destruction of every object, which takes two seconds where torch and Prefect were imported.
    """
    if "torch" not in sys.modules:
        sys.exit(code)
    threading._shutdown()  # ty: ignore[missing-attribute]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Do what a command line says; gives the exit code."""
    parser = make_parser()
    commands = {
        "train": train,
        "check": check,
        "find-lr": find_lr,
        "up": up,
        "schedule": schedule,
        "repair": repair,
        "reproduce": reproduce,
        "evaluate": evaluate,
        "report": report,
        "compare": compare,
        "join": join,
        "predict": predict,
        "promote": promote,
        "rollback": roll_back,
        "models": list_models,
        "datasets": list_datasets,
    }
    words = (word for before, word in zip(["", *arguments], arguments, strict=False) if before != "--runs")
    word = next((word for word in words if not word.startswith("-")), None)
    if word is None:
        parser.print_help()
        return 0 if set(arguments) & {"-h", "--help"} else 2
    if word not in commands:
        raise ConfigError(f"Unknown command '{word}'.", nearest(word, commands))
    options, unknown = parser.parse_known_args([_underscored(argument) for argument in arguments])
    if unknown:
        known = [option for action in _subparser(parser, word)._actions for option in action.option_strings]
        raise ConfigError(f"Unknown option {unknown[0]}.", nearest(unknown[0], known))
    if options.runs:
        os.environ["TORCHMILL_RUNS"] = options.runs
    if (code := hand_over(word, arguments, Runs.here())) is not None:
        return code
    return commands[word](options)


def make_parser() -> Parser:
    parser = Parser(
        prog="torchmill",
        allow_abbrev=False,
        description="Train your own PyTorch network, look at its runs in MLflow, schedule it with Prefect, "
        "and get an ONNX model that is proven to give the same answers.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            usage=f"torchmill {name} [options]",
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            allow_abbrev=False,
        )

    training = command("train", "train a network, evaluate it and export it to ONNX")
    training.add_argument(
        "--json", action="store_true", help="print the result as one JSON object, the last line of stdout"
    )
    training.add_argument("--profile", action="store_true", help="short for --train.profile")
    training.add_argument("--explain", action="store_true", help="say of each step whether it ran, and why")
    training.add_argument("--fresh", action="store_true", help="begin anew, with nothing of earlier runs")
    checking = command("check", "examine a network: is it sound, before hours are spent on it")
    checking.add_argument("--json", action="store_true", help="print the verdicts as one JSON object")
    finding = command("find-lr", "try which learning rate suits a network and its data")
    finding.add_argument("--json", action="store_true", help="print rates and losses as one JSON object")
    finding.add_argument("--plot", type=Path, metavar="FILE", help="draw them into a .png")
    scheduling = command("schedule", "have trainings or predictions start by themselves while `torchmill up` runs")
    scheduling.add_argument("--cron", metavar="CRON", help='when: minute hour day month weekday, as "0 3 * * *"')
    scheduling.add_argument(
        "--timezone", metavar="ZONE", help="of the cron times, as Europe/Berlin (default: this machine's)"
    )
    scheduling.add_argument("--predict", metavar="MODEL", help="have that model answer inputs, instead of a training")
    scheduling.add_argument("--inputs", nargs="+", type=Path, metavar="INPUT", help="of --predict: folders, tables, …")
    scheduling.add_argument("--output", type=Path, metavar="FILE", help="of --predict: .csv, .jsonl or .parquet")
    scheduling.add_argument("--list", action="store_true", help="show the schedules")
    scheduling.add_argument("--remove", metavar="NAME", help="remove a schedule")
    for parser_of_run in (training, checking, finding, scheduling):
        _add_config(parser_of_run)
    starting = command("up", "run the MLflow UI, the Prefect UI and the runner of schedules until Ctrl-C")
    starting.add_argument(
        "--mlflow-port", type=int, metavar="PORT", help="port of the MLflow UI (default: 5000 or a free one)"
    )
    starting.add_argument(
        "--prefect-port", type=int, metavar="PORT", help="port of the Prefect UI (default: 4200 or a free one)"
    )
    starting.add_argument(
        "--no-standby", action="store_true", help="have no process at hand by which commands start at once (0.7 GB)"
    )
    repairing = command("repair", "close what died, send what was kept, follow a folder that was moved")
    repairing.add_argument("--dry-run", action="store_true", help="only say what would be done")
    reproducing = command("reproduce", "run a recorded run again and say what is equal")
    reproducing.add_argument("run", metavar="RUN_ID", help="id of a run in MLflow, the beginning of it, or its name")
    reproducing.add_argument("--json", action="store_true", help="print the comparison as one JSON object")
    scoring = command("evaluate", "score a run's network, or an ONNX model, once more or on other data")
    scoring.add_argument(
        "subject", metavar="RUN", help="id of a run in MLflow, the beginning of it, its name, or last; or MODEL.onnx"
    )
    scoring.add_argument("--data", metavar="NAME", help="another data set of the same shape and classes")
    scoring.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    reporting = command("report", "have a run's report as one HTML page; says where it is")
    reporting.add_argument("run", metavar="RUN", help="id of a run in MLflow, the beginning of it, its name, or last")
    reporting.add_argument("--open", action="store_true", help="open it in a browser")
    comparing = command("compare", "say how much better one run is than another, on the same test samples")
    for name, text in (("first", "a run, as in report"), ("second", "the other one: told is how much better it is")):
        comparing.add_argument(name, metavar="RUN", help=text)
    comparing.add_argument("--json", action="store_true", help="print the differences as one JSON object")
    comparing.add_argument("--open", action="store_true", help="open the page in a browser")
    joining = command("join", "take part in a training of several machines")
    joining.add_argument("folder", type=Path, metavar="FOLDER", help="as the first machine told it")
    predicting = command("predict", "answer images, tables or texts with an exported model")
    predicting.add_argument("model", metavar="MODEL", help="an .onnx file; or of the registry NAME, NAME@7, champion")
    predicting.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="image files, folders, tables, texts")
    predicting.add_argument(
        "--output", type=Path, default=Path("predictions.csv"), metavar="FILE", help=".csv, .jsonl or .parquet"
    )
    predicting.add_argument("--no-probabilities", action="store_true", help="the label and how sure it is alone")
    promoting = command("promote", "make a registered model the champion, if it is as good as the one that is")
    promoting.add_argument("model", metavar="MODEL", help="its name in the registry; `torchmill models` shows them")
    promoting.add_argument("version", nargs="?", metavar="VERSION", help="default: the challenger")
    promoting.add_argument("--force", action="store_true", help="without comparing it")
    rolling_back = command("rollback", "make the former champion champion again")
    rolling_back.add_argument("model", metavar="MODEL", help="its name in the registry")
    listing = command("models", "list the networks that can be named, and what is registered")
    listing.add_argument("family", nargs="?", metavar="torchvision", help="list torchvision's networks")
    command("datasets", "list the data sets that can be named")
    where = "where runs are kept (default: TORCHMILL_RUNS or ./mlruns)"
    parser.add_argument("--runs", metavar="DIR", help=where)
    # Before and after the command; suppressed, the one doesn't undo the other.
    for name in (
        *("train", "check", "find-lr", "up", "schedule", "repair", "reproduce"),
        *("evaluate", "report", "compare", "predict", "promote", "rollback", "models"),
    ):
        _subparser(parser, name).add_argument("--runs", default=argparse.SUPPRESS, metavar="DIR", help=where)
    return parser


def _subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return next(actions).choices[name]


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file with any of the following; options override it"
    )
    groups: dict[str, Any] = {}
    for section in configuration.sections():
        group = groups[section] = parser.add_argument_group(section)
        if issubclass(configuration.sections()[section], Named):
            group.add_argument(f"--{section}", metavar="NAME", help=f"short for --{section}.name")
    general = parser.add_argument_group("run")
    for name, (annotation, text, default) in configuration.fields().items():
        shown = json.dumps(default) if isinstance(default, dict | tuple) else default
        options = f" {', '.join(get_args(annotation))};" if get_origin(annotation) is Literal else ""
        described = f"{text.rstrip('.')} ({options.strip()} default: {shown})".replace("%", "%%").replace("( ", "(")
        section = name.partition(".")[0]
        metavar = name.rpartition(".")[2].upper()
        # --data.allow-leakage alone is yes.
        switch = {"nargs": "?", "const": "true"} if annotation is bool else {}
        groups.get(section, general).add_argument(f"--{name}", metavar=metavar, help=described, **switch)


def _underscored(argument: str) -> str:
    """Spell --data.validation-fraction as its field is."""
    option, equals, value = argument.partition("=")
    return (
        option.replace("-", "_").replace("__", "--", 1) + equals + value
        if option.startswith("--") and "." in option
        else argument
    )


def _config(options: argparse.Namespace) -> configuration.RunConfig:
    names = [*configuration.sections(), *configuration.fields()]
    chosen = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    if getattr(options, "profile", False):
        chosen["train.profile"] = "true"
    return configuration.load(options.config, chosen)


def train(options: argparse.Namespace) -> int:
    config = _config(options)
    runs = Runs.here().ready()
    signal.signal(signal.SIGTERM, _terminated)
    quiet_prefect()

    from torchmill.components import tracking
    from torchmill.components.runs import claim as claims
    from torchmill.components.runs import fingerprint
    from torchmill.components.training.distributed.launch import started_ahead
    from torchmill.flows.cli.console import show_log

    show_log(options.explain)
    tracking.check_database(runs)
    decided = fingerprint.of_run(config, tracking.destination(runs))
    if not options.fresh and (done := claims.find_result(runs, decided)):
        print(f"Nothing has changed since run {done.name}; --fresh trains anew.", file=sys.stderr)
        for name, step in done.steps.items() if options.explain else ():
            print(f"{name}: {step.state}, {step.why}", file=sys.stderr)
        return _show_result(done, options.json)

    from torchmill.flows.services import prefect_server

    tracking.warm_up()
    gc.disable()  # a fifth of the time that the imports take: what they make is there to stay
    with prefect_server.at_hand(runs), started_ahead(config.train):
        # All of them take seconds to start; meanwhile this process imports torch.
        from torchmill.components.training import device
        from torchmill.flows.train import train

        gc.freeze()
        gc.enable()
        try:
            device.resolve(config.device)  # before anything is downloaded
            result = train(config, options.fresh)
        except UserError as error:
            if options.json:
                print(json.dumps({"status": "FAILED", "error": str(error)}), flush=True)
            raise
    return _show_result(result, options.json)


def check(options: argparse.Namespace) -> int:
    config = _config(options)
    level = getattr(options, "check.level")
    if level is not None and config.check.level == "off":
        raise ConfigError("check examines always: --check.level off is for train.", "Say quick or full.")
    if level is None:  # whoever asks for it wants to know
        config = config.model_copy(update={"check": configuration.CheckConfig(level="full")})

    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.components.doctor.check import check_network, subject_of

    try:
        data, sample, network = _network(config)
        report = check_network(network, sample, data, config.train, config.check.level)
    except UserError as error:
        if options.json:
            print(json.dumps({"status": "FAILED", "error": str(error)}), flush=True)
        raise
    examined = subject_of(config)
    if options.json:
        print(json.dumps(examined | report.as_json()), flush=True)
    else:
        told = "; ".join(f"{what} {value}" for what, value in examined.items())
        print("\n".join([told, *report.terminal_lines()]))
    return 1 if report.worst == "fail" else 0


def _network(config: configuration.RunConfig) -> tuple[Any, Any, Any]:
    """The data set, some of its samples, and the network with its first weights."""
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.data.samples import read_sample
    from torchmill.components.initialization.build import initialize
    from torchmill.components.initialization.standardized_model import standardized
    from torchmill.components.runs.folders import data_cache

    data = fetch(config.data.name, data_cache(), args=arguments(config.data))
    sample = read_sample(data, SAMPLE, config.seed)
    network, _ = initialize(config.model, config.initialize, data, config.seed, standardized(sample, data))
    return data, sample, network


def find_lr(options: argparse.Namespace) -> int:
    config = _config(options)

    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.components.data.samples import read_training
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
    else:
        least = min(zip(curve.losses, curve.rates, strict=True))
        print(
            f"--train.lr {curve.lr:g}  a tenth of {least[1]:.2g}, where the loss is least: {least[0]:.4g}, "
            f"from {curve.losses[0]:.4g} at first"
        )
    return 0


def _show_result(result: TrainResult, as_json: bool) -> int:
    if as_json:
        print(result.model_dump_json(), flush=True)
        return 0
    measure, model = result.data.measure, result.onnx
    test, low, high = (shown(measure, result.metrics[f"test_{measure}{end}"]) for end in ("", "_low", "_high"))
    title = f"{'Test R²' if measure == 'r2' else 'Test ' + measure.replace('_', ' '):<14} "
    registered = f"{model.model} version {model.version}" if model.version else "not registered"
    if result.promotion:
        registered += {"promoted": ", champion", "kept": ", challenger", "pending": ""}[result.promotion.outcome]
    print(
        f"\n{title}{test}  (95 %: {low} to {high})\n"
        f"ONNX model     {model.path}\n"
        f"               {registered}, {model.agreement:.2%} of answers agree\n"
        f"Weights        {result.weights.path}\n"
        f"Report         {result.report}\n"
        f"Look at it     torchmill up, then {result.mlflow_url}"
    )
    return 0


def reproduce(options: argparse.Namespace) -> int:
    runs = Runs.here().ready()
    signal.signal(signal.SIGTERM, _terminated)
    quiet_prefect()

    from torchmill.flows.cli.console import show_comparison, show_log
    from torchmill.flows.services import prefect_server

    show_log()
    with prefect_server.at_hand(runs):
        from torchmill.flows.reproduce import reproduce

        done = reproduce(options.run)
    if options.json:
        print(done.model_dump_json(), flush=True)
    else:
        show_comparison(done)
    return 0 if done.is_equal else 1


def evaluate(options: argparse.Namespace) -> int:
    data = configuration.load(None, {"data": options.data}).data if options.data else None
    runs = Runs.here().ready()
    signal.signal(signal.SIGTERM, _terminated)
    quiet_prefect()

    from torchmill.flows.cli.console import show_log, show_scores
    from torchmill.flows.services import prefect_server

    show_log()
    with prefect_server.at_hand(runs):
        from torchmill.flows.evaluate import evaluate

        scores = evaluate(options.subject, data)
    if options.json:
        print(scores.model_dump_json(), flush=True)
    else:
        show_scores(scores)
    return 0


def report(options: argparse.Namespace) -> int:
    runs = Runs.here().ready()

    from torchmill.components import tracking

    recorded = tracking.find_run(runs, options.run)
    page = tracking.fetch_file(runs, recorded, "report.html", runs.work / "reports" / recorded.run_id)
    print(page)
    if options.open:
        webbrowser.open(page.as_uri())
    return 0


def compare(options: argparse.Namespace) -> int:
    from torchmill.flows.cli.compare import compare, show

    compared = compare(Runs.here().ready(), options.first, options.second)
    if options.json:
        runs = {"first": compared.first.run_id, "second": compared.second.run_id}
        print(json.dumps({**runs, **compared.pairing.as_plain(), "page": str(compared.page)}), flush=True)
    else:
        show(compared)
    if options.open:
        webbrowser.open(compared.page.as_uri())
    return 0


def join(options: argparse.Namespace) -> int:
    from torchmill.components.training.distributed.supervise import join

    join(options.folder)
    return 0


def repair(options: argparse.Namespace) -> int:
    quiet_prefect()

    from torchmill.flows.services.repair import repair

    return repair(Runs.here().ready(), options.dry_run)


def quiet_prefect() -> None:
    """Before Prefect is imported: have it print nothing."""
    # Its own lines would repeat ours, and show a traceback for a typing mistake; its UI has them.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def _terminated(*_: object) -> NoReturn:
    """Leave on SIGTERM. During a flow it comes to Prefect first, which ends the flow and then passes it on."""
    print("torchmill: stopped by SIGTERM.", file=sys.stderr)
    sys.exit(143)


def up(options: argparse.Namespace) -> int:
    from torchmill.flows.services.up import up

    return up(Runs.here().ready(), options.mlflow_port, options.prefect_port, not options.no_standby)


def schedule(options: argparse.Namespace) -> int:
    config = _config(options)
    if not (options.cron or options.list or options.remove):
        raise ConfigError(
            "Schedule needs --cron, --list or --remove NAME.",
            'As in: torchmill schedule --cron "0 3 * * *" --data mnist',
        )
    runs = Runs.here().ready()

    from torchmill.flows.services import schedule

    if options.list:
        return schedule.show(runs)
    if options.remove:
        return schedule.remove(runs, options.remove)
    if options.predict:
        if not (options.inputs and options.output):
            raise ConfigError("Schedule --predict needs --inputs and --output.", "See torchmill schedule --help.")
        named = (options.predict, options.inputs, options.output)
        return schedule.add_prediction(runs, *named, config.name, options.cron, options.timezone)
    return schedule.add(runs, config, options.cron, options.timezone)


def list_models(options: argparse.Namespace) -> int:
    if options.family:
        if options.family != TORCHVISION:
            raise ConfigError(f"Unknown '{options.family}'.", "`torchmill models torchvision` lists torchvision's.")
        from torchmill.components.initialization.torchvision import names

        print("\n".join(f"torchvision:{name}" for name in names()))
        return 0
    for name in model_names():
        described = catalogue.network(name)
        print(f"{name:19}{described.text}\n{'':19}takes {described.takes}; {described.arguments}")
    print(
        f"{'torchvision:NAME':19}any classification network of torchvision, adapted to channels, classes and size\n"
        f"{'':19}takes images; `torchmill models torchvision` lists them\n"
        "\nYour own: --model path/to/file.py:Class or package.module:Class. Arguments: --model.args '{\"width\": 48}'"
    )
    from torchmill.flows import promotion

    if lines := promotion.registered(Runs.here()):
        print("\n".join(["", "Registered:", *lines]))
    return 0


def predict(options: argparse.Namespace) -> int:
    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.flows.predict import answer

    done = answer(options.model, options.inputs, options.output, not options.no_probabilities)
    print(done.output)
    return 0


def promote(options: argparse.Namespace) -> int:
    from torchmill.flows.cli.console import show_log

    show_log()
    from torchmill.flows import promotion

    return promotion.promote(Runs.here().ready(), options.model, options.version, options.force)


def roll_back(options: argparse.Namespace) -> int:
    from torchmill.flows import promotion

    return promotion.roll_back(Runs.here().ready(), options.model)


def list_datasets(_: argparse.Namespace) -> int:
    for name in dataset_names():
        described = catalogue.data_set(name)
        print(
            f"{described.reference:19}{described.text}"
            + (f"\n{'':19}{described.arguments}" * bool(described.arguments))
        )
    print(
        "\nYour own: --data path/to/file.py:function, which returns arrays or a Dataset. "
        "Arguments: --data.args '{\"image_size\": 64}'"
    )
    return 0


if __name__ == "__main__":
    main()
