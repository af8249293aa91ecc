"""Results of commands as text on stdout."""

from torchmill.components import tasks, tracking
from torchmill.components.evaluation.evaluation import Evaluation
from torchmill.components.evaluation.report.summary import summary
from torchmill.components.refs import EvaluationRef, TrainResult
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.reproduction import Reproduction
from torchmill.components.tasks import shown, title
from torchmill.components.wording import percent
from torchmill.flows.services import up_state

REGISTERED_AS = {"promoted": ", champion", "kept": ", challenger", "pending": ""}


def show_result(result: TrainResult, runs: Runs, as_json: bool) -> None:
    """Print the result of a training: its score, its files, and where to look at the run."""
    if as_json:
        print(result.model_dump_json(), flush=True)
        return
    measure, model = result.data.measure, result.onnx
    score, low, high = (shown(measure, result.metrics[f"test_{measure}{end}"]) for end in ("", "_low", "_high"))
    heading = f"Test {title(measure)}"
    version = f"{model.model} version {model.version}" if model.version else "not registered"
    role = REGISTERED_AS[result.promotion.outcome] if result.promotion else ""
    print(
        f"\n{heading:<14} {score}  (95 %: {low} to {high})\n"
        f"ONNX model     {model.path}\n"
        f"               {version}{role}, {percent(model.agreement)} of the answers agree\n"
        f"Weights        {result.weights.path}\n"
        f"Report         {result.report}\n"
        f"Look at it     {where_to_look(result, runs)}"
    )


def where_to_look(result: TrainResult, runs: Runs) -> str:
    """Return the run's page and the list of runs if an MLflow UI answers; otherwise how to start one, and the run."""
    if address := up_state.mlflow_ui(runs):
        page = result.mlflow_url.partition("/#")[2]
        runs_of_experiment = f"{page.rpartition('/')[0]}?viewStateShareKey={tracking.VIEW}"
        return f"{address}/#{page}\nAll runs       {address}/#{runs_of_experiment}"
    return f"torchmill up, then run {result.name}"


def show_reproduction(reproduction: Reproduction) -> None:
    """Print which results and circumstances of a run and its reproduction are equal."""
    rows = reproduction.comparisons
    results = [row for row in rows if row.is_result]
    circumstances = [row for row in rows if not (row.is_result or row.is_equal)]
    width = max(len(row.what) for row in rows)
    print(f"\n{'':{width}}  run {reproduction.recorded} and run {reproduction.again}")
    for row in results:
        print(f"{row.what:{width}}  {'equal    ' if row.is_equal else 'DIFFERENT'}  {row.recorded}")
        if not row.is_equal:
            print(f"{'':{width}}             {row.again}")
    for row in circumstances:
        print(f"{row.what:{width}}  was {row.recorded}, is {row.again}")
    if not circumstances:
        print(f"{'circumstances':{width}}  equal: versions, machine, device, Torchmill's source")
    equal = sum(row.is_equal for row in results)
    print(f"\n{equal} of {len(results)} results are equal" + (", to the last byte." if reproduction.is_equal else "."))


def show_scores(scores: EvaluationRef) -> None:
    """Print the main measures of an evaluation, each with its interval."""
    evaluation = Evaluation.read(scores.report.path)
    rows = summary(evaluation, "" if evaluation.field_task else tasks.by_measure(scores.measure).name)
    names, values = max(len(row.name) for row in rows), max(len(row.value) for row in rows)
    print(f"\n{'':{names}}  {'':{values}}  95 % interval, of {scores.samples:,} samples")
    for row in rows:
        print(f"{row.name:{names}}  {row.value:>{values}}  {row.interval}".rstrip())
    print(f"\nFull report: {scores.report.path}")
