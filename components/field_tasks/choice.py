"""Choice of the task that a data set's networks are trained for."""

import logging

from torchmill.components.batches.field_refs import FieldRef, TaskRef
from torchmill.components.data.named_fields import named_fields
from torchmill.components.encoding.vocabulary import SPECIAL, UNKNOWN
from torchmill.components.errors import UserError, shortened
from torchmill.components.field_tasks.config import AUTO, TaskConfig
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.refs import DataRef
from torchmill.components.tasks import field_tasks, names, task_class

UNKNOWN_NAME = SPECIAL[UNKNOWN]

logger = logging.getLogger("torchmill")


def for_task(data: DataRef, config: TaskConfig) -> DataRef:
    """Return a data set with the task of the configuration.

    Raises:
        UserError: the task does not fit the data, or nobody says which one is meant.
    """
    name = config.name
    if name == AUTO and data.field_refs:
        name, reason = _recognized(data)
        logger.info("task  %s, since the target of %s %s", name, data.name, reason)
    if not data.field_refs:
        if name in (AUTO, data.task):
            return data
        if name in names():
            raise UserError(f"--task {name}: {data.name} has labels for {data.task}.", _remedy(name))
    task = FieldTask.made(name, config.args, data)
    goal = TaskRef(
        reference=name,
        args=config.args,
        measure=task.main_measure,
        better=task.better,
        outputs=task.outputs,
        noise={field.name: field.shape for field in task.noise_fields()},
    )
    return data.model_copy(update={"goal": goal})


def for_other_data(data: DataRef, trained: DataRef) -> DataRef:
    """Return other data for a network that was trained: with the statistics and the task of the training data.

    Raises:
        UserError: it has other fields.
    """
    ours, theirs = ({field.name: field for field in named_fields(each)} for each in (trained, data))
    for name, field in ours.items():
        if name not in theirs or (theirs[name].kind, theirs[name].dtype) != (field.kind, field.dtype):
            raise UserError(
                f"{data.name} has no field like {field.words()} of {trained.name}.",
                f"It has {', '.join(field.words() for field in theirs.values())}.",
            )
    fields = tuple(_renumbered(field, theirs[field.name], data.name) for field in ours.values())
    return data.model_copy(update={"field_refs": fields, "goal": trained.goal})


def _renumbered(ours: FieldRef, theirs: FieldRef, name: str) -> FieldRef:
    """Return a field of training for arrays with the ids of other data; words that training lacks are unknown.

    Raises:
        UserError: the other data has classes, or tokens of a tokenizer, that training lacks.
    """
    if ours.names == theirs.names or not (ours.names and theirs.names):
        return ours
    ids = {each: number for number, each in enumerate(ours.names)}
    unknown = UNKNOWN if ours.text and UNKNOWN_NAME in ids and UNKNOWN_NAME in theirs.names else None
    missing = [each for each in theirs.names if each not in ids]
    if missing and unknown is None:
        what = "another tokenizer: it knows" if ours.text else "classes that training lacks:"
        raise UserError(f"Field '{ours.name}' of {name} has {what} {shortened(missing, 4)}.")
    return ours.model_copy(update={"renumbered": tuple(ids.get(each, unknown or 0) for each in theirs.names)})


def _remedy(name: str) -> str:
    return (
        f"A function of your own names its task beside 'train': {{'train': …, 'task': '{name}'}}; csv takes "
        f"--data.args.task {name}."
    )


def _recognized(data: DataRef) -> tuple[str, str]:
    """Return the only task that the target fits, and the reason.

    Raises:
        UserError: there may be others.
    """
    targets = [field for field in named_fields(data) if field.is_target]
    if len(targets) == 1:
        rules = {name: getattr(task_class(name), "fits", None) for name in field_tasks()}
        reasons = {name: fits(targets[0]) for name, fits in rules.items() if fits}
        fitting = {name: reason for name, reason in reasons.items() if reason}
        if len(fitting) == 1:
            return next(iter(fitting.items()))
    raise UserError(
        f"{data.name} has the fields {', '.join(field.words() for field in named_fields(data))}, and no task.",
        f"Name it: --task {', '.join(field_tasks())}, or your own --task file.py:Class.",
    )
