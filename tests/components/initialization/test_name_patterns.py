import pytest

from torchmill.components.initialization.name_patterns import matching

NAMES = ["conv1", "fc1", "fc2", "layer1.0.conv", "layer1.1.conv", "layer10.0.conv"]


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("fc1", ["fc1"]),
        ("fc*", ["fc1", "fc2"]),
        ("fc.*", ["fc1", "fc2"]),  # no layer is called fc, so it is a regular expression
        ("layer1.*", ["layer1.0.conv", "layer1.1.conv"]),
        ("layer1", ["layer1.0.conv", "layer1.1.conv"]),
        ("*conv", ["layer1.0.conv", "layer1.1.conv", "layer10.0.conv"]),
        ("conv1.*", ["conv1"]),
        ("*", NAMES),
        ("nothing", []),
        ("[", []),
    ],
)
def test_a_pattern_matches_names_in_their_order(pattern, matches):
    assert matching(pattern, NAMES) == matches
