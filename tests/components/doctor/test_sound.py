"""Sound networks fail no check, get few warnings, and are left as they were."""

from collections.abc import Iterator
from typing import Literal

import pytest
import torch

from tests.components.doctor.check_inputs import check_input
from tests.components.doctor.examinations import examine
from tests.components.doctor.registry import Sound, sound_networks

SOUND = sound_networks()
SLOW = {
    *("deep_relu", "lstm", "gru", "frozenbackbone", "instance_norm_with_running_statistics", "maximumoverchannels"),
    *("learnedpositionsoffixedlength", "mixeroverchannels", "sinusoids", "separable"),
}
"""Networks that take long; others of their kind run each day."""
IN_FULL = [sound.name for sound in SOUND[::5] if sound.name not in SLOW]
"""Networks that learn a batch by heart each day, which takes two thirds of a full examination."""


def instances() -> Iterator[object]:
    for sound in SOUND:
        in_full = sound.name in IN_FULL
        yield pytest.param(sound, "full", id=sound.name, marks=[pytest.mark.slow] * (not in_full))
        if not in_full and sound.name not in SLOW:
            yield pytest.param(sound, "quick", id=f"{sound.name}-quick")


@pytest.mark.parametrize(("sound", "level"), list(instances()))
def test_a_sound_network_passes(sound: Sound, level: Literal["quick", "full"]):
    torch.manual_seed(0)
    report = examine(check_input(sound.make(), sound.inputs, sound.loss, **sound.more), level)
    lines = "\n".join(report.lines())
    assert report.worst != "fail", lines
    assert {verdict.check for verdict in report.verdicts if verdict.verdict == "warn"} <= sound.warns, lines
