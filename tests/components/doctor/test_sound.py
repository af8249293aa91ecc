"""Sound networks fail nowhere and are hardly warned of, and looking at them leaves no trace."""

import pytest
import torch

from tests.components.doctor.cases import case
from tests.components.doctor.sound import SOUND, Sound
from torchmill.components.doctor.examine import examine


@pytest.mark.parametrize("sound", SOUND, ids=lambda sound: sound.name)
def test_a_sound_network_passes(sound: Sound):
    torch.manual_seed(0)
    report = examine(case(sound.make(), sound.inputs, sound.loss, **sound.more), "full")
    said = "\n".join(report.lines())
    assert report.worst != "fail", said
    assert {verdict.check for verdict in report.verdicts if verdict.verdict == "warn"} <= sound.warns, said
