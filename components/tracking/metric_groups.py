"""Names of metrics in MLflow, whose charts show one section for each group: ``test_accuracy`` is ``test/accuracy``."""

GROUPS = ("train", "validation", "test", "data", "onnx")
TIMES = "seconds."
"""Prefix of the duration of a step: ``seconds.fit``."""
OF_THEIR_OWN = {
    "lr": "train/lr",
    "micro_batch": "train/micro_batch",
    "best_epoch": "train/best_epoch",
    "samples_per_second": "time/samples_per_second",
}
OWN_NAMES = {in_mlflow: own for own, in_mlflow in OF_THEIR_OWN.items()}


def grouped(name: str) -> str:
    """Return the name of a metric in MLflow; a name that belongs to no group stays.

    Example:
        >>> grouped("test_accuracy"), grouped("seconds.fit"), grouped("lr")
        ('test/accuracy', 'time/fit_seconds', 'train/lr')
    """
    if name in OF_THEIR_OWN:
        return OF_THEIR_OWN[name]
    if name.startswith(TIMES):
        return f"time/{name.removeprefix(TIMES)}_seconds"
    group, _, measure = name.partition("_")
    return f"{group}/{measure}" if group in GROUPS and measure else name


def ungrouped(name: str) -> str:
    """Return the name that ``grouped`` made a metric's name in MLflow from.

    Example:
        >>> ungrouped("test/accuracy"), ungrouped("test_accuracy")  # the second is of an earlier version
        ('test_accuracy', 'test_accuracy')
    """
    if name in OWN_NAMES:
        return OWN_NAMES[name]
    group, _, measure = name.partition("/")
    if group == "time" and measure.endswith("_seconds"):
        return f"{TIMES}{measure.removesuffix('_seconds')}"
    return f"{group}_{measure}" if group in GROUPS and measure else name
