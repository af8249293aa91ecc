"""References to model versions, and the history of champions."""

import pytest

from torchmill.components.errors import UserError
from torchmill.components.tracking.champions import MAX_REIGNS, Champions, ModelVersion, find_version

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
def test_a_reference_names_a_version_by_alias_or_number(reference, version):
    assert find_version(VERSIONS, reference).version == version


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("digit-cnn", "Did you mean digits-cnn"),
        ("digits-cnn@3", "digits-cnn has no version 3. It has: 1, 2, champion, challenger"),
        ("names", "names has no champion. It has: 1."),
        ("digits-cnn@best", "has no best"),
    ],
)
def test_an_unknown_version_is_an_error_that_lists_the_known_ones(reference, words):
    with pytest.raises(UserError, match=words):
        find_version(VERSIONS, reference)


def test_champion_alone_is_ambiguous_with_several_models():
    both = [*VERSIONS, ModelVersion("names", "2", "d", aliases=("champion",))]
    with pytest.raises(UserError, match="Say which: digits-cnn@champion or names@champion"):
        find_version(both, "champion")
    with pytest.raises(UserError, match="no model is registered"):
        find_version([], "champion")


def history(*moves: str) -> Champions:
    champions = Champions()
    for version in moves:
        champions = champions.with_intention(version, "promoted").reconciled(version)
    return champions


def test_the_predecessor_exists_and_a_second_rollback_undoes_the_first():
    assert history("1", "2").predecessor("2", {"1", "2"}) == "1"
    assert history("1", "2", "1").predecessor("1", {"1", "2"}) == "2"
    assert history("1", "2", "3").predecessor("3", {"1", "3"}) == "1"  # 2 was deleted
    assert history("1").predecessor("1", {"1"}) is None and Champions().predecessor(None, {"1"}) is None


def test_an_interrupted_move_counts_if_the_alias_was_set():
    interrupted = history("1").with_intention("2", "promoted")
    assert "2" not in interrupted
    assert [reign.version for reign in interrupted.reconciled("1").reigns] == ["1"]
    assert [reign.version for reign in interrupted.reconciled("2").reigns] == ["1", "2"]
    by_hand = history("1", "2").reconciled("1")
    assert [(reign.version, reign.why) for reign in by_hand.reigns[-1:]] == [("1", "set by hand")]


def test_a_history_survives_a_round_trip_and_stays_short():
    champions = history("1", "2").with_intention("3", "promoted")
    assert Champions.from_json(champions.as_json()) == champions
    many = history(*map(str, range(1000, 1500)))
    assert len(many.as_json()) < 5000 and len(Champions.from_json(many.as_json()).reigns) == MAX_REIGNS
    for damaged in (None, "", "{", "[1]", '[{"version": 1}]'):
        assert Champions.from_json(damaged).reigns == ()
