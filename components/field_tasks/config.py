"""Settings of the task. Imports no torch."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, field_validator

from torchmill.components.errors import nearest
from torchmill.components.settings.options import Listed, Option
from torchmill.components.settings.section import JsonObject, Named
from torchmill.components.tasks import TASKS, field_tasks, names
from torchmill.components.user_code.reference import check_reference

AUTO = "auto"


def _choices() -> list[str]:
    return list(dict.fromkeys((*names(), *field_tasks())))


class TaskConfig(Named):
    name: Annotated[str, Listed(_choices, "Tasks")] = AUTO
    """Task that the network is trained for. auto: the only one that the target fits, or the one that labels
    are for. Your own: file.py:Class."""
    args: JsonObject = Field(default_factory=dict)
    """Arguments of the task's constructor as JSON."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if ":" in name:
            check_reference(name)
        elif name not in (AUTO, *_choices()):
            raise ValueError(f"unknown task '{name}'. {nearest(name, [AUTO, *_choices()])} Your own: file.py:Class")
        return name

    def options(self) -> Iterator[Option]:
        if self.name in field_tasks():
            yield TASKS[self.name]
