"""What a step does besides calling its component, and what Prefect knows of the flow."""

from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.states import Failed
from prefect.utilities.schema_tools import validate

from torchmill.components.config import RunConfig
from torchmill.components.errors import Unreachable, UserError
from torchmill.flows import steps
from torchmill.flows.train import train


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
    assert tried.pop("fetch") == 3
    assert set(tried.values()) == {0} and {"initialize", "fit", "register"} < set(tried)


@pytest.fixture(scope="module")
def schema() -> dict:
    return train.parameters.model_dump_for_openapi()


def test_the_form_that_prefect_makes_of_the_configuration_takes_every_default(schema: dict):
    assert not validate({"config": RunConfig().model_dump(mode="json")}, schema, raise_on_error=False)
    assert "Passes over the training data" in str(schema)


def test_prefect_yaml_asks_for_what_the_flow_takes(schema: dict):
    deployments = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    assert [one["entrypoint"] for one in deployments] == ["flows/train.py:train"]
    for one in deployments:
        assert not validate(one["parameters"], schema, raise_on_error=False)
    assert validate({"config": {"data": {"nmae": "digits"}}}, schema, raise_on_error=False)
