"""Sound networks fail no check, get few warnings, and are left as they were."""

import pytest
import torch

from tests.components.doctor.check_inputs import check_input
from tests.components.doctor.examinations import examine
from tests.components.doctor.registry import Sound, sound_networks

SLOW = {
    *("deep_relu", "lstm", "gru", "frozenbackbone", "instance_norm_with_running_statistics", "maximumoverchannels"),
    *("learnedpositionsoffixedlength", "mixeroverchannels", "sinusoids", "separable"),
}
"""Networks that take long; others of their kind run each day."""


@pytest.mark.parametrize(
    "sound",
    [pytest.param(sound, marks=[pytest.mark.slow] * (sound.name in SLOW), id=sound.name) for sound in sound_networks()],
)
def test_a_sound_network_passes(sound: Sound):
    torch.manual_seed(0)
    report = examine(check_input(sound.make(), sound.inputs, sound.loss, **sound.more), "full")
    lines = "\n".join(report.lines())
    assert report.worst != "fail", lines
    assert {verdict.check for verdict in report.verdicts if verdict.verdict == "warn"} <= sound.warns, lines
