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


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (signal.SIGINT, 130, "stopped"),
        pytest.param(signal.SIGTERM, 143, "SIGTERM", marks=pytest.mark.slow),  # in a fork: test_prewarm
    ],
)
def test_a_run_that_is_stopped_ends_killed_within_seconds(used: Place, sent: signal.Signals, code: int, words: str):
    process = start_and_wait_for_training(used)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode == code
    assert words in err and "Traceback" not in err
    assert used.states() == ["KILLED"]
    used.wait_until_quiet()
    assert used.prefect("SELECT state_name FROM flow_run") == [("Crashed",)]


@pytest.mark.slow
def test_a_second_signal_leaves_at_once_and_the_run_goes_on_later_where_a_first_one_stopped_it(used: Place):
    process = start_and_wait_for_training(used)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    again = used.start("train", "--train.epochs", "5000", start_new_session=True)
    assert again.stderr
    lines = []
    for line in again.stderr:
        lines.append(line)
        if "epoch " in line and "/5000" in line:
            break
    again.send_signal(signal.SIGTERM)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=5)
    assert again.returncode in (143, -signal.SIGTERM)
    log = "".join(lines)
    assert "resuming run" in log and " at epoch " in log and "epoch 1/5000" not in log
    used.wait_until_quiet()
    assert used.states() == ["KILLED"]
    steps = used.mlflow("SELECT step FROM metrics WHERE key = 'train/loss' ORDER BY step")
    assert [step for (step,) in steps] == list(range(1, len(steps) + 1))


def test_a_run_that_is_killed_outright_still_ends_killed_in_mlflow(used: Place):
    process = start_and_wait_for_training(used)
    os.killpg(process.pid, signal.SIGKILL)
    _, err = process.communicate()
    assert "died: it was killed, memory ran out" in err and "The same command resumes it" in err
    used.wait_until_quiet()
    assert used.states() == ["KILLED"]
    assert used.prefect("SELECT state_name FROM flow_run") == [("Crashed",)]
    assert {state for (state,) in used.prefect("SELECT state_name FROM task_run")} == {"Completed", "Crashed"}
    epochs = used.mlflow("SELECT count(*), count(DISTINCT step) FROM metrics WHERE key = 'train/loss'")
    assert epochs[0][0] == epochs[0][1] >= 1


def test_a_loss_that_is_no_number_ends_the_run_failed_with_the_reason(shared: Place):
    done = shared.torchmill("train", "--train.lr", "900", "--train.optimizer", "sgd", "--train.epochs", "3")
    assert done.returncode == 1
    assert "became nan in epoch 1, step" in done.stderr and "layer " in done.stderr and "--train.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert shared.states() == ["FAILED"]
    ((reason,),) = shared.mlflow("SELECT value FROM tags WHERE key = 'error'")
    assert "became nan" in reason
