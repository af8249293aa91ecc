"""Texts that are cut into tokens, and labels that are strings, become ids with names."""

import numpy as np
import pytest

from torchmill.components.data.fetch import fetch, read_vocabulary
from torchmill.components.data.formats.user_fields import load_fields
from torchmill.components.encoding.vocabulary import UNKNOWN
from torchmill.components.errors import UserError

TEXTS = [["a", "dog", "barks"], ["a", "cat"], ["the", "dog"], ["a", "cat", "sleeps", "now"]]
TAGS = [["D", "N", "V"], ["D", "N"], ["D", "N"], ["D", "N", "V", "O"]]


def splits_of(**changes):
    part = {"tokens": TEXTS, "tags": TAGS, **changes}
    return load_fields({"train": part, "validation": part, "test": part}, "own")


def test_tokens_become_ids_by_frequency_and_labels_in_sorted_order():
    splits = splits_of()
    tokens, tags, lengths = splits.fields
    assert tokens.names[:2] == ("<padding>", "<unknown>")
    assert set(tokens.names[2:]) == {"a", "dog", "cat"}  # the others occur once
    assert tokens.names[2] == "a" and tokens.size == 5 and tokens.ragged
    assert tags.names == ("O", "D", "N", "V") and tags.is_target
    arrays = splits.arrays["train"]
    assert arrays["tags"].tolist() == [[1, 2, 3, 0], [1, 2, 0, 0], [1, 2, 0, 0], [1, 2, 3, 0]]
    assert arrays["lengths"].tolist() == [3, 2, 2, 4]
    assert arrays["tokens"][2].tolist() == [UNKNOWN, tokens.names.index("dog"), 0, 0]
    assert lengths.name == "lengths"
    assert "unknown are" in splits.notes[0]


def test_the_vocabulary_is_that_of_training_alone(tmp_path):
    (tmp_path / "own.py").write_text(
        "def texts():\n"
        "    tokens = [['word', 'word', f'w{n % 150}', f'w{n % 150}'] for n in range(300)]\n"
        "    return {'tokens': tokens, 'label': ['yes', 'no'] * 150}\n"
    )
    data = fetch(f"{tmp_path}/own.py:texts", tmp_path / "cache")
    assert data.validation_size and data.test_size and data.classes == ("no", "yes")
    train, validation, test = (
        set(np.load(data.folder / f"{split}_tokens.npy").ravel().tolist()) for split in ("train", "validation", "test")
    )
    vocabulary = read_vocabulary(data)
    assert len(vocabulary.tokens) == max(train) + 1
    assert UNKNOWN in validation and UNKNOWN in test and UNKNOWN not in train  # equal texts stay together


def test_groups_stay_together_and_are_kept():
    returned = {"train": {"tokens": TEXTS * 25, "tags": TAGS * 25}, "groups": np.arange(100) // 4}
    splits = load_fields(returned, "own")
    rows = {split: {int(name.split()[1]) // 4 for name in names} for split, names in splits.origins.items()}
    assert not rows["train"] & rows["test"] and not rows["train"] & rows["validation"]
    assert len(splits.groups) == len(splits.arrays["train"]["tokens"])


def test_texts_of_unknown_words_are_not_taken_for_copies():
    texts = [["a", "a", f"word{n}"] for n in range(40)]
    splits = load_fields({"train": {"tokens": texts, "tags": [["O"] * 3] * 40}}, "own")
    assert len(np.unique(np.concatenate(list(splits.digests.values())))) == 40


def test_digests_do_not_depend_on_the_longest_sample():
    short, long = [np.arange(1, 4), np.arange(1, 3)], [np.arange(1, 4), np.arange(1, 30)]
    digests = [load_fields({"train": {"x": x}, "test": {"x": x}}, "own").digests["train"][0] for x in (short, long)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": [*TEXTS[:3], []]}, "train field 'tokens': sample 3 is empty"),
        ({"tokens": [*TEXTS[:3], "a cat"]}, "sample 3 is a str, not a list of strings"),
        ({"tokens": [*TEXTS[:3], ["a", 3, "b", "c"]]}, "sample 3 has a int as token 1"),
        ({"tags": [*TAGS[:3], ["D", "N"]]}, "sample 3 has the length 2, and 4"),
        ({"tags": [*TAGS[:3], None]}, r"field 'tags': sample 3 is nothing \(None\), not a list of strings"),
    ],
)
def test_malformed_texts_are_named_with_their_place(changes, message):
    with pytest.raises(UserError, match=message):
        splits_of(**changes)


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError, match=r"sample 0 is empty; .*'tags': sample 1 is a str.*; and 2 more"):
        splits_of(tokens=[[], *TEXTS[1:]], tags=[TAGS[0], "D N", *TAGS[2:]])


def test_masks_of_0_and_255_alone_are_refused():
    """255 is ignored: such a mask would have one class, and each network would be right."""
    mask = np.tile(np.array([0, 255], np.uint8), (4, 8, 4))
    with pytest.raises(UserError, match=r"0 and 255 alone, and 255 is ignored\. Give 0 and 1: mask // 255"):
        load_fields({"image": np.zeros((4, 8, 8), np.uint8), "mask": mask}, "own")


def test_labels_that_names_lack_are_told():
    part = {"tokens": TEXTS, "tags": TAGS}
    with pytest.raises(UserError, match="holds O, V, which 'names' lacks"):
        load_fields({"train": part, "names": {"tags": ["D", "N"]}}, "own")
