"""The commands that look at recorded runs: score, report, compare and reproduce them."""

import argparse
import json
import webbrowser

from torchmill.components import config as configuration
from torchmill.components.runs.folders import Runs, below
from torchmill.flows.cli.flow_commands import begin_flows
from torchmill.flows.cli.parser import TRUST, Command, Group, Parser

RUN = "a run's id in MLflow or the beginning of it, its name, or last"


def _evaluate_options(parser: Parser) -> None:
    parser.add_argument("subject", metavar="RUN", help=f"{RUN}; or an .onnx file")
    parser.add_argument("--data", metavar="NAME", help="another data set of the same shape and classes")
    parser.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    parser.add_argument("--trust", action="store_true", help=TRUST)


def evaluate(options: argparse.Namespace) -> int:
    """Score a run's weights or an ONNX model."""
    data = configuration.load(None, {"data": options.data}).data if options.data else None
    runs = Runs.here().ready()
    begin_flows()

    from torchmill.flows.cli.console import show_log
    from torchmill.flows.cli.results import show_scores
    from torchmill.flows.services import prefect_server

    show_log()
    with prefect_server.at_hand(runs):
        from torchmill.flows.evaluate import evaluate

        scores = evaluate(options.subject, data, options.trust)
    if options.json:
        print(scores.model_dump_json(), flush=True)
    else:
        show_scores(scores)
    return 0


def _report_options(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--open", action="store_true", help="open it in a browser")


def report(options: argparse.Namespace) -> int:
    """Fetch a run's report and print its path."""
    runs = Runs.here().ready()

    from torchmill.components import tracking

    run = tracking.find_run(runs, options.run)
    page = tracking.fetch_file(runs, run, "report.html", below(runs.work / "reports", run.run_id))
    print(page)
    if options.open:
        webbrowser.open(page.as_uri())
    return 0


def _compare_options(parser: Parser) -> None:
    parser.add_argument("first", metavar="RUN", help=RUN)
    parser.add_argument("second", metavar="OTHER_RUN", help="the run that is better or worse than the first")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--json", action="store_true", help="print the differences as one JSON object")


def compare(options: argparse.Namespace) -> int:
    """Compare two runs sample by sample."""
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


def _reproduce_options(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--json", action="store_true", help="print the comparison as one JSON object")
    parser.add_argument("--trust", action="store_true", help=TRUST)


def reproduce(options: argparse.Namespace) -> int:
    """Run a recorded run again; the exit code is 1 if a result differs."""
    runs = Runs.here().ready()
    begin_flows()

    from torchmill.flows.cli.console import show_log
    from torchmill.flows.cli.results import show_reproduction
    from torchmill.flows.services import prefect_server

    show_log()
    with prefect_server.at_hand(runs):
        from torchmill.flows.reproduce import reproduce

        reproduction = reproduce(options.run, options.trust)
    if options.json:
        print(reproduction.model_dump_json(), flush=True)
    else:
        show_reproduction(reproduction)
    return 0 if reproduction.is_equal else 1


GROUP = Group(
    "looking at runs",
    (
        Command("evaluate", "score a run's network or an ONNX model, also on other data", evaluate, _evaluate_options),
        Command("report", "write a run's report as one HTML page and print its path", report, _report_options),
        Command("compare", "compare two runs on the same test samples, one by one", compare, _compare_options),
        Command("reproduce", "run a recorded run again and say which results are equal", reproduce, _reproduce_options),
    ),
)
