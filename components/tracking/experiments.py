"""MLflow's experiments: one for each data set, with a list of runs that shows what matters."""

import json
from typing import Any

from torchmill.components.runs.folders import Runs

VIEW = "torchmill"
"""Key of the view that an experiment shares: MLflow's list of runs shows no metric and no param unless a view does."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag that makes the UI show the columns for networks rather than those for language models."""


def experiment_of(client: Any, name: str, runs: Runs, local: bool) -> Any:
    """Return an experiment by name; create it, or restore it, if need be.

    Args:
        local: MLflow's database is a file of ours, and not a server's.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name, (runs.artifacts / name).as_uri() if local else None, tags=KIND)
        except MlflowException:  # another process was faster
            if client.get_experiment_by_name(name) is None:
                raise
        experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment


def share_view(client: Any, experiment_id: str, measure: str) -> None:
    """Share a view of the experiment's runs, and link to it from the experiment's description, unless there is one.

    The list shows the score, the learning rate and what else is usually varied; the charts begin with the score. The
    UI takes the view from ``viewStateShareKey`` in an address, as its own "Share" makes one.

    Args:
        measure: measure of the data's task, for example accuracy.
    """
    tags = client.get_experiment(experiment_id).tags
    view = json.dumps(_view(measure))
    if tags.get(f"mlflow.sharedViewState.{VIEW}") != view:
        client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW}", view)
        client.set_experiment_tag(experiment_id, "mlflow.experiment.primaryMetric.name", f"test/{measure}")
    if "mlflow.note.content" not in tags:
        client.set_experiment_tag(experiment_id, "mlflow.note.content", runs_link(experiment_id))


def runs_link(experiment_id: str) -> str:
    """Return a link in Markdown to the list of an experiment's runs, as the UI that shows it resolves it."""
    return f"[All runs with score and learning rate](#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW})"


def _view(measure: str) -> dict[str, Any]:
    """Return the state of the UI's list and charts of runs, as MLflow 3.17's own UI writes it."""
    metrics = [f"test/{measure}", f"validation/{measure}"]
    params = ["lr.used", "batch_size.used", "train.epochs", "train.optimizer", "model.name", "seed"]
    columns = [f"metrics.`{name}`" for name in metrics] + [f"params.`{name}`" for name in params]
    sections = ["test", "validation", "train", "onnx", "data", "time"]
    charts = [
        ("BAR", "test", measure),
        ("BAR", "test", "loss"),
        ("LINE", "validation", measure),
        ("LINE", "validation", "loss"),
        ("LINE", "train", measure),
        ("LINE", "train", "loss"),
    ]
    return {
        "selectedColumns": columns,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": True}
            for name in sections
        ],
        "compareRunCharts": [_chart(kind, section, name) for kind, section, name in charts],
        "isAccordionReordered": True,
    }


def _chart(kind: str, section: str, name: str) -> dict[str, Any]:
    chart = {
        "type": kind,
        "uuid": f"{section}-{name}",
        "metricSectionId": section,
        "metricKey": f"{section}/{name}",
        "displayName": name,
        "isGenerated": True,
        "deleted": False,
    }
    lines = {
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
    return chart | (lines if kind == "LINE" else {})
