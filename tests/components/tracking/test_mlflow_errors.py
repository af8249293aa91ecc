"""Errors of a delivery: those that waiting mends, and those that it never will."""

import json
import sqlite3

import pytest
from mlflow.exceptions import MlflowException
from requests import ConnectionError, HTTPError, JSONDecodeError, Response
from sqlalchemy.exc import OperationalError

from torchmill.components.tracking.mlflow_errors import is_refusal


def http_error(status: int) -> HTTPError:
    response = Response()
    response.status_code = status
    return HTTPError(response=response)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        JSONDecodeError("Expecting value", "<html>", 0),
        json.JSONDecodeError("Expecting value", "<html>", 0),
        OperationalError("insert", {}, sqlite3.OperationalError("database is locked")),
        MlflowException("starting up"),
        http_error(503),
    ],
)
def test_the_trouble_of_a_server_may_be_over_in_a_moment(error):
    assert not is_refusal(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("too many values to unpack"),
        AssertionError(),
        TypeError("unexpected argument"),
        KeyError("name"),
        http_error(404),
    ],
)
def test_a_fault_of_the_code_is_not_waited_for(error):
    assert is_refusal(error)
