"""Ports of two `up` that start at the same moment."""

import contextlib
import tempfile

import pytest

from torchmill.components.errors import UserError
from torchmill.flows.services.processes import free_port
from torchmill.flows.services.up import _port


def test_a_port_that_another_up_has_chosen_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usual = free_port()
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        assert _port("Prefect", "--prefect-port", None, usual, first) == usual
        assert _port("Prefect", "--prefect-port", None, usual, second) != usual  # though nobody listens yet
        with pytest.raises(UserError, match=f"Port {usual} for Prefect is in use"):
            _port("Prefect", "--prefect-port", usual, 4200, second)
    with contextlib.ExitStack() as third:
        assert _port("Prefect", "--prefect-port", None, usual, third) == usual
