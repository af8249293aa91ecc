"""The TCN corrects the last season's values, and none of its layers sees a later step."""

import pytest
import torch

from torchmill.components.models.tcn import Layer, Tcn


@pytest.fixture
def history() -> torch.Tensor:
    return torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(0))


def test_without_corrections_the_last_season_is_repeated(history):
    network = Tcn(2, horizon=10, season=7).eval()
    torch.nn.init.zeros_(network.output.weight)
    season = history[:, 0, -7:]
    expected = torch.cat([season, season[:, :3]], 1)[:, :, None].expand(-1, -1, 5)
    torch.testing.assert_close(network(history), expected)


def test_a_season_longer_than_the_history_repeats_all_of_it(history):
    network = Tcn(2, horizon=3, season=100, quantiles=1).eval()
    torch.nn.init.zeros_(network.output.weight)
    torch.testing.assert_close(network(history), history[:, 0, :3])


def test_no_layer_sees_a_later_step(history):
    layer = Layer(2, gap=4, dropout=0.0).eval()
    changed = history.clone()
    changed[:, :, 20:] += 1
    before, after = layer(history), layer(changed)
    torch.testing.assert_close(before[:, :, :20], after[:, :, :20])
    assert not torch.equal(before[:, :, 20:], after[:, :, 20:])
    changed = history.clone()
    changed[:, :, 11] += 1  # two gaps before step 19
    assert not torch.equal(layer(changed)[:, :, 19], before[:, :, 19])
