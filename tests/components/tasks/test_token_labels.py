"""Labels of tokens: words in, exact spans out."""

import numpy as np
import pytest
import torch

from tests.components.tasks.trials import Trial
from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.errors import UserError
from torchmill.components.metrics.spans import SpanLabels, matching_spans, spans_of
from torchmill.components.tasks.token_labels import IGNORED, TokenLabels

OWN = """
import random
from torch import nn

FIRST, LAST = ("Anna", "Ben", "Cleo", "Dan"), [f"Miller{n}" for n in range(60)]
CITIES = ("Paris", "Rome", "Oslo")

def sentences(samples=400):
    rng = random.Random(0)
    tokens, tags = [], []
    for _ in range(samples):
        name = [rng.choice(FIRST), rng.choice(LAST)][: rng.randint(1, 2)]
        ending = ["now"] * rng.randint(0, 3)
        parts = [(name, "PER"), (["lives", "in"], ""), ([rng.choice(CITIES)], "LOC"), (ending, "")]
        tokens.append([word for words, _ in parts for word in words])
        tags.append([f"{'BI'[at > 0]}-{kind}" if kind else "O" for each, kind in parts for at in range(len(each))])
    return {"tokens": tokens, "tags": tags}

def words():
    return {"tokens": [["a", "dog", "barks"[: 1 + n % 5]] for n in range(60)], "tags": [["DET", "NOUN", "VERB"]] * 60}

class Tagger(nn.Module):
    def __init__(self, vocab_size, num_classes, width=24):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        self.layer = nn.Conv1d(width, width, 3, padding=1)
        self.output = nn.Linear(width, num_classes)

    def forward(self, tokens):
        return {"hidden": None, "logits": self.output(self.layer(self.embedding(tokens).mT).mT.relu())}
"""

NAMES = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def conll_chunks(tags: list[str]) -> set[tuple[str, int, int]]:
    """The rules of conlleval and of seqeval's default, tag by tag."""
    chunks, start, kind = set(), None, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, new = tag.partition("-")
        if start is not None and (prefix in "BO" or new != kind):
            chunks.add((kind, start, place - 1))
            start = None
        if prefix == "B" or (prefix == "I" and start is None):
            start, kind = place, new
    return chunks


def test_spans_are_those_of_conlleval():
    rng, scheme = np.random.default_rng(0), SpanLabels.of(NAMES)
    truth, answer = (torch.from_numpy(rng.integers(0, len(NAMES), (300, 12))) for _ in range(2))
    answer = torch.where(torch.from_numpy(rng.random((300, 12)) < 0.7), truth, answer)
    counted = torch.from_numpy(rng.random((300, 12)) < 0.85)
    both, true, answered = matching_spans(truth, answer, counted, scheme)
    for row in range(300):
        chunks = []
        for labels in (truth, answer):
            tags = [NAMES[label] for label in labels[row][counted[row]].tolist()]
            chunks.append(conll_chunks(tags))
            assert {
                (kind, start, end - 1) for start, end, kind in spans_of(labels[row][counted[row]].tolist(), scheme)
            } == (chunks[-1])
        right, spans = chunks[0] & chunks[1], chunks[0]
        assert [both[row].sum(), true[row].sum(), answered[row].sum()] == [len(right), len(spans), len(chunks[1])]
        assert both[row].tolist() == [sum(kind == each for kind, *_ in right) for each in scheme.types]


@pytest.mark.parametrize("names", [("O", "PER"), ("NOUN", "VERB"), ("O",), (), ("O", "I-PER"), ("O", "B-")])
def test_other_names_mark_no_spans(names):
    assert SpanLabels.of(names) is None


def test_a_network_learns_spans_and_its_export_answers_them(own, tmp_path):
    trial = Trial.of(tmp_path, f"{own}:sentences", "token_labels", f"{own}:Tagger")
    assert trial.data.goal.measure == "span_f1"
    assert trial.data.classes == ("O", "B-LOC", "B-PER", "I-PER")
    assert trial.data.validation_size
    before = trial.evaluate()
    trial.train(60)
    report = trial.evaluate()
    assert report["span_f1"] > 0.9 > before["span_f1"]
    assert report["span_f1_95"][0] <= report["span_f1"] <= report["span_f1_95"][1]
    assert {"PER_f1", "LOC_f1", "span_precision", "span_recall", "token_accuracy"} < report.keys()
    _, answers = trial.export()
    assert answers["labels"].dtype == np.int64
    assert answers["logits"].shape == (*answers["labels"].shape, 4)


def test_wrong_spans_are_drawn(own, tmp_path):
    trial = Trial.of(tmp_path, f"{own}:sentences", "token_labels", f"{own}:Tagger")
    assert "wrong_labels.png" in trial.evaluate()["pictures"]


def test_labels_without_spans_are_counted_token_by_token(own, tmp_path):
    trial = Trial.of(tmp_path, f"{own}:words", "token_labels", f"{own}:Tagger")
    assert trial.data.goal.measure == "token_accuracy"
    trial.train(20)
    report = trial.evaluate()
    assert report["token_accuracy"] == 1
    assert "span_f1" not in report
    assert "wrong_labels.png" not in report["pictures"]


def field(name: str, **more) -> FieldRef:
    return FieldRef(**{"name": name, "file": name, "kind": "ids", "shape": (4,), "dtype": "int64", "size": 5, **more})


def test_padding_and_ignored_tokens_count_for_nothing():
    ragged = {"tokens": field("tokens", ragged=True), "tags": field("tags", is_target=True, names=NAMES, ragged=True)}
    task = TokenLabels(ragged)
    tags = torch.tensor([[2, IGNORED, 4, 0], [1, 0, 0, 0]])
    batch = Batch.of({"tokens": torch.ones(2, 4, dtype=torch.long), "tags": tags, "lengths": torch.tensor([4, 1])})
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 0]]).bool()
    expected = torch.nn.functional.cross_entropy(logits[kept], tags[kept])
    torch.testing.assert_close(task.loss(lambda _: logits, batch), expected)
    answer = torch.tensor([[2, 1, 4, 0], [1, 2, 2, 2]])  # the ignored place splits no span, and padding adds none
    statistics = task.measure({"labels": answer}, batch)
    assert statistics["spans_right"].sum(1).tolist() == statistics["spans"].sum(1).tolist() == [1, 1]
    assert statistics["spans_answered"].sum(1).tolist() == [1, 1]
    assert statistics["tokens"].tolist() == statistics["tokens_right"].tolist() == [3, 1]


def test_a_loss_without_counted_tokens_is_zero():
    task = TokenLabels({"tokens": field("tokens"), "tags": field("tags", is_target=True)})
    batch = Batch.of({"tokens": torch.ones(2, 4, dtype=torch.long), "tags": torch.full((2, 4), IGNORED)})
    assert task.loss(lambda _: torch.zeros(2, 4, 5), batch) == 0


def test_fields_and_outputs_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"the fields are tokens \(ids, int64 4\), tags \(ids, int64 3\)"):
        TokenLabels({"tokens": field("tokens"), "tags": field("tags", is_target=True, shape=(3,))})
    task = TokenLabels({"tokens": field("tokens"), "tags": field("tags", is_target=True)})
    batch = Batch.of({"tokens": torch.ones(2, 4, dtype=torch.long)})
    with pytest.raises(UserError, match=r"gives \(2, 3, 5\) for tokens of length 4; expected logits \(N, 4, 5\)"):
        task.predict(lambda _: torch.zeros(2, 3, 5), batch)
