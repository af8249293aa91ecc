"""Names of model versions, and the history of champions."""

import pytest

from torchmill.components.errors import UserError
from torchmill.components.tracking.champions import REMEMBERED, Champions, ModelVersion, find

VERSIONS = [
    ModelVersion("digits-cnn", "1", "a", aliases=("champion",)),
    ModelVersion("digits-cnn", "2", "b", aliases=("challenger",)),
    ModelVersion("names", "1", "c"),
]


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ("champion", "1"),
        ("digits-cnn", "1"),
        ("digits-cnn@champion", "1"),
        ("digits-cnn@challenger", "2"),
        ("digits-cnn@2", "2"),
        ("digits-cnn/2", "2"),
    ],
)
def test_a_version_is_found_by_alias_or_number(reference, version):
    assert find(VERSIONS, reference).version == version


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("digit-cnn", "Did you mean digits-cnn"),
        ("digits-cnn@3", "digits-cnn has no version 3. It has: 1, 2, champion, challenger"),
        ("names", "names has no champion. It has: 1."),
        ("digits-cnn@best", "has no best"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(reference, words):
    with pytest.raises(UserError, match=words):
        find(VERSIONS, reference)


def test_a_champion_of_several_models_is_to_be_named():
    both = [*VERSIONS, ModelVersion("names", "2", "d", aliases=("champion",))]
    with pytest.raises(UserError, match="Say which: digits-cnn@champion or names@champion"):
        find(both, "champion")
    with pytest.raises(UserError, match="no model is registered"):
        find([], "champion")


def reign(*moves: str) -> Champions:
    champions = Champions()
    for version in moves:
        champions = champions.intending(version, "promoted").settled(version)
    return champions


def test_the_former_champion_is_found_and_a_rollback_of_a_rollback_leads_back():
    assert reign("1", "2").before("2", {"1", "2"}) == "1"
    assert reign("1", "2", "1").before("1", {"1", "2"}) == "2"
    assert reign("1", "2", "3").before("3", {"1", "3"}) == "1"  # 2 was deleted
    assert reign("1").before("1", {"1"}) is None and Champions().before(None, {"1"}) is None


def test_a_move_that_did_not_happen_is_forgotten_and_one_that_did_is_kept():
    half = reign("1").intending("2", "promoted")
    assert "2" not in half
    assert [one.version for one in half.settled("1").reigns] == ["1"]
    assert [one.version for one in half.settled("2").reigns] == ["1", "2"]
    by_hand = reign("1", "2").settled("1")
    assert [(one.version, one.why) for one in by_hand.reigns[-1:]] == [("1", "set by hand")]


def test_a_history_survives_being_written_and_stays_short():
    champions = reign("1", "2").intending("3", "promoted")
    assert Champions.read(champions.text()) == champions
    many = reign(*map(str, range(1000, 1500)))
    assert len(many.text()) < 5000 and len(Champions.read(many.text()).reigns) == REMEMBERED
    for rubbish in (None, "", "{", "[1]", '[{"version": 1}]'):
        assert Champions.read(rubbish).reigns == ()
