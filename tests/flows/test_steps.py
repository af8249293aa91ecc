"""What a step does besides calling its component."""

from uuid import uuid4

import pytest
from prefect.states import Failed

from components.errors import Unreachable, UserError
from flows import steps


def comes_back(error: Exception) -> bool:
    return steps.may_come_back(steps.fetch, None, Failed(data=error))


def test_a_source_that_did_not_answer_is_tried_again_later_when_nobody_waits_in_front(monkeypatch: pytest.MonkeyPatch):
    assert not comes_back(Unreachable("the mirror is down"))
    # As in a run that was scheduled.
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid4()))
    assert comes_back(Unreachable("the mirror is down"))
    assert not comes_back(UserError("the digest is wrong"))


def test_only_fetching_is_tried_again():
    tried = {step.name: step.retries for step in vars(steps).values() if hasattr(step, "retries")}
    assert tried == {"fetch": 3, "initialize": 0, "fit": 0, "evaluate": 0, "export": 0, "register": 0}
