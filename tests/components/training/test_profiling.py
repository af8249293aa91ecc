"""A profile records some steps and changes no result."""

import json

from tests.components.training.small_training import CPU, Small, make, state, train
from torchmill.components.training.profiling import RECORDED_STEPS, profiled


def test_some_steps_are_recorded_as_a_trace_and_as_a_table(toy, tmp_path):
    with profiled(tmp_path, CPU) as after_step:
        list(train(profiled_network := make(Small), toy, tmp_path / "one", epochs=2, should_stop=after_step))
    table = (tmp_path / "profile.txt").read_text()
    assert f"{RECORDED_STEPS} steps" in table and "aten::convolution_backward" in table and "Self CPU" in table
    events = json.loads((tmp_path / "profile.json").read_text())["traceEvents"]
    assert sum(str(event.get("name")).startswith("ProfilerStep#") for event in events) >= RECORDED_STEPS
    list(train(plain := make(Small), toy, tmp_path / "other", epochs=2))
    assert state(plain) == state(profiled_network)


def test_of_too_few_steps_there_is_none(tmp_path):
    with profiled(tmp_path, CPU) as after_step:
        for _ in range(3):
            after_step()
    assert list(tmp_path.iterdir()) == []
