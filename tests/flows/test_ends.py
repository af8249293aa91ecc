"""However a run ends, MLflow says how, and nothing is left behind."""

import os
import signal
import subprocess
import time

import pytest

from tests.flows.conftest import Place

pytestmark = pytest.mark.services


def start_and_wait_for_training(place: Place) -> subprocess.Popen[str]:
    process = place.start("train", "--train.epochs", "5000", start_new_session=True)
    assert process.stderr
    for line in process.stderr:
        if "epoch 1/" in line:
            return process
    raise AssertionError("it never trained")


@pytest.mark.parametrize(("sent", "code", "words"), [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_run_that_is_stopped_ends_killed_within_seconds(place: Place, sent: signal.Signals, code: int, words: str):
    process = start_and_wait_for_training(place)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode == code
    assert words in err and "Traceback" not in err
    assert place.states() == ["KILLED"]
    place.wait_until_quiet()
    assert place.prefect("SELECT state_name FROM flow_run") == [("Crashed",)]


def test_a_run_that_is_killed_outright_still_ends_killed_in_mlflow(place: Place):
    process = start_and_wait_for_training(place)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    place.wait_until_quiet()
    assert place.states() == ["KILLED"]
    epochs = place.mlflow("SELECT count(*), count(DISTINCT step) FROM metrics WHERE key = 'train_loss'")
    assert epochs[0][0] == epochs[0][1] >= 1


def test_a_loss_that_is_no_number_ends_the_run_failed_with_the_reason(place: Place):
    done = place.torchmill("train", "--train.lr", "900", "--train.optimizer", "sgd", "--train.epochs", "3")
    assert done.returncode == 1
    assert "loss became" in done.stderr and "--train.lr" in done.stderr and "Traceback" not in done.stderr
    assert place.states() == ["FAILED"]
    ((reason,),) = place.mlflow("SELECT value FROM tags WHERE key = 'error'")
    assert "loss became" in reason
