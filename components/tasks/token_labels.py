"""A label for each token of a text, for example the names of persons and places in it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.batches.outputs import main_output
from torchmill.components.errors import UserError
from torchmill.components.metrics.plots import draw_texts
from torchmill.components.metrics.spans import SpanLabels, matching_spans, spans_of

IGNORED = -100
"""Label of tokens that neither loss nor measures count."""

MOST_TYPES = 8
"""Largest number of types of spans that have an F1 each."""

DRAWN = 20
"""Mistakes that are drawn."""


class TokenLabels:
    """Loss: cross-entropy of tokens. The network gives logits (N, L, labels) for tokens (N, L); padding isn't counted.

    Labels that are named by the scheme IOB2 (``O``, ``B-PER``, ``I-PER``) mark spans. Measures of spans count those
    whose place and type are exactly right, as the CoNLL-2003 evaluation does:

    - ``span_f1`` (the main one), ``span_precision``, ``span_recall``: over all spans of the split
    - ``PER_f1`` for each type, if there are at most 8

    Measure of other labels, and beside those of spans: ``token_accuracy``, the share of right tokens.
    """

    def __init__(self, fields: Mapping[str, FieldRef]):
        targets = [field for field in fields.values() if field.is_target and field.kind == "ids" and field.shape]
        target = targets[0] if len(targets) == 1 and len(targets[0].shape) == 1 else None
        inputs = [field for field in inputs_of(list(fields.values())) if target and _same_steps(field, target)]
        if not target or not inputs:
            raise UserError(
                f"Labels of tokens need tokens and one target of the same length; the fields are "
                f"{', '.join(field.words() for field in fields.values())}.",
                "Return {'tokens': a list of strings or ids for each sample, 'tags': a list of the same length}.",
            )
        self.target, self.input = target, next((field for field in inputs if field.kind == "ids"), inputs[0])
        self.spans = SpanLabels.of(target.names)
        self.main_measure = "span_f1" if self.spans else "token_accuracy"

    @staticmethod
    def fits(target: FieldRef) -> str:
        if target.kind != "ids" or len(target.shape) != 1 or not target.names:
            return ""
        is_of_tokens = target.ragged or target.size > 2 or len(target.names) != target.shape[0]
        return "are named labels of tokens" if is_of_tokens else ""

    def loss(self, network: torch.nn.Module, batch: Batch) -> Tensor:
        logits, truth = self._logits(network, batch), self._truth(batch)
        total = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (truth != IGNORED).sum().clamp(min=1)

    def predict(self, network: torch.nn.Module, inputs: Batch) -> dict[str, Tensor]:
        """Return ``logits`` (N, L, labels), and ``labels``: the likeliest label of each token, (N, L)."""
        logits = self._logits(network, inputs)
        return {"logits": logits, "labels": logits.argmax(2)}

    def measure(self, answer: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        truth, labels = self._truth(batch), answer["labels"]
        counted = truth != IGNORED
        statistics = {"tokens_right": (counted & (truth == labels)).sum(1), "tokens": counted.sum(1)}
        if not self.spans:
            return statistics
        both, true, answered = matching_spans(truth, labels, counted, self.spans)
        return {"spans_right": both, "spans": true, "spans_answered": answered, **statistics}

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        accuracy = {"token_accuracy": means["tokens_right"] / means["tokens"].clamp(min=1e-9)}
        if not self.spans:
            return accuracy
        right, true, answered = means["spans_right"], means["spans"], means["spans_answered"]
        f1 = 2 * right / (true + answered).clamp(min=1e-9)
        types = self.spans.types if 1 < len(self.spans.types) <= MOST_TYPES else ()
        return {
            "span_f1": 2 * right.sum() / (true + answered).sum().clamp(min=1e-9),
            "span_precision": right.sum() / answered.sum().clamp(min=1e-9),
            "span_recall": right.sum() / true.sum().clamp(min=1e-9),
            **accuracy,
            **{f"{kind}_f1": value for kind, value in zip(types, f1, strict=False)},
        }

    def draw(self, network: torch.nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Draw spans or tokens with wrong labels, each in its text."""
        answers, truths = self.predict(network, batch)["labels"].tolist(), self._truth(batch).tolist()
        lines = []
        for tokens, answer, truth in zip(batch[self.input.name].tolist(), answers, truths, strict=True):
            places = [place for place, label in enumerate(truth) if label != IGNORED]
            words = [self._word(tokens[place]) for place in places]
            chosen, right = [answer[place] for place in places], [truth[place] for place in places]
            lines += self._mistakes(words, chosen, right)
        path = folder / "wrong_labels.png"
        if not lines:
            path.unlink(missing_ok=True)
            return []
        draw_texts(lines[:DRAWN], path)
        return [path]

    def _mistakes(self, words: list[str], answer: list[int], truth: list[int]) -> list[str]:
        """Return a line for each wrong span, or for each wrong token if labels mark no spans."""
        text = " ".join(words)
        if not self.spans:
            pairs = [(at, a, t) for at, (a, t) in enumerate(zip(answer, truth, strict=True)) if a != t]
            return [f'{self._label(a)} instead of {self._label(t)}: "{words[at]}" in "{text}"' for at, a, t in pairs]
        answered, true = (set(spans_of(labels, self.spans)) for labels in (answer, truth))
        marked = sorted(
            [*((span, "missed") for span in true - answered), *((span, "wrong") for span in answered - true)]
        )
        return [f'{word} {kind}: "{" ".join(words[start:end])}" in "{text}"' for (start, end, kind), word in marked]

    def _word(self, token: object) -> str:
        names = self.input.names
        return names[token] if isinstance(token, int) and token < len(names) else str(token)

    def _label(self, label: int) -> str:
        return self.target.names[label] if label < len(self.target.names) else str(label)

    def _truth(self, batch: Batch) -> Tensor:
        """Return the label of each token, (N, L), and -100 for padding."""
        truth = batch[self.target.name]
        if not self.target.ragged:
            return truth
        places = torch.arange(truth.shape[1], device=truth.device)
        return torch.where(places < batch[self.target.lengths][:, None], truth, IGNORED)

    def _logits(self, network: torch.nn.Module, inputs: Batch) -> Tensor:
        logits = main_output(network(inputs), "logits")
        length = inputs[self.input.name].shape[1]
        if logits.dim() != 3 or logits.shape[1] != length or logits.shape[2] != self.target.size:
            raise UserError(
                f"The network gives {tuple(logits.shape)} for {self.input.name} of length {length}; expected logits "
                f"(N, {length}, {self.target.size}).",
                "Take num_classes in its constructor, and give logits for each token.",
            )
        return logits


def _same_steps(field: FieldRef, target: FieldRef) -> bool:
    """Return True if each step of an input has a label."""
    same_lengths = (field.ragged, field.lengths) == (target.ragged, target.lengths)
    return field.shape[:1] == target.shape and same_lengths
