"""The next token of a text, at each place."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.batches.outputs import main_output
from torchmill.components.encoding.words import spelled
from torchmill.components.errors import UserError
from torchmill.components.metrics.plots import draw_texts

IGNORED = -100
SHOWN, LONGEST = 12, 64
"""Texts that are drawn, and their largest length."""


class LanguageModel:
    """Loss: nats a token. The network gives logits (N, L, tokens) for tokens (N, L), each from those up to its place.

    Texts of different lengths begin and end with the token of padding: their end is predicted, too. Windows of one
    length are parts of a longer text, and have no end.

    Measures: ``bits`` a token (the main one; of characters: bits a character) and ``perplexity``, 2 to the power of it.
    """

    main_measure, better = "bits", "lower"

    def __init__(self, fields: Mapping[str, FieldRef]):
        inputs = [field for field in inputs_of(list(fields.values())) if field.kind == "ids" and len(field.shape) == 1]
        if len(inputs) != 1:
            raise UserError(
                f"A language model needs one field of tokens; the fields are "
                f"{', '.join(field.words() for field in fields.values())}.",
                "Return {'tokens': integers (N, L)}, or use a data set of texts.",
            )
        self.field, self.end = inputs[0], inputs[0].padding

    def loss(self, network: torch.nn.Module, batch: Batch) -> Tensor:
        if not self.field.ragged:  # a window has no end to predict, so its last token needs no answer
            tokens = batch[self.field.name].long()
            logits = self._logits(network, batch.replaced({self.field.name: tokens[:, :-1]}))
            return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        logits, targets = self._logits(network, batch), self._targets(batch)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def predict(self, network: torch.nn.Module, inputs: Batch) -> dict[str, Tensor]:
        """Return ``logits`` (N, L + 1, tokens): at each place, of the token after those before it."""
        return {"logits": self._logits(network, inputs)}

    def measure(self, answer: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        logits, targets = answer["logits"], self._targets(batch)
        nats = F.cross_entropy(logits.movedim(-1, 1), targets, ignore_index=IGNORED, reduction="none").sum(1)
        return {"bits": nats / math.log(2), "tokens": (targets != IGNORED).sum(1)}

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        bits = means["bits"] / means["tokens"].clamp(min=1e-9)
        return {"bits": bits, "perplexity": 2**bits}

    def draw(self, network: torch.nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Draw texts that the network writes, token by token."""
        tokens = batch[self.field.name]
        rng = torch.Generator(device=tokens.device).manual_seed(0)
        written = tokens.new_zeros(SHOWN, 0)
        longest = min(LONGEST, self.field.shape[0])
        for _ in range(longest):
            logits = self._logits(network, Batch.of({self.field.name: written}))[:, -1]
            written = torch.cat([written, torch.multinomial(logits.softmax(1), 1, generator=rng)], 1)
        texts = [row[: row.index(self.end) if self.end in row else None] for row in written.tolist()]
        path = folder / "samples_written.png"
        draw_texts([self._words(text) for text in texts], path)
        return [path]

    def _words(self, tokens: list[int]) -> str:
        names = self.field.names
        return spelled([names[token] for token in tokens]) if names else " ".join(map(str, tokens))

    def _logits(self, network: torch.nn.Module, inputs: Batch) -> Tensor:
        """Return logits (N, L + 1, tokens): the tokens are shifted by the one that begins a text."""
        tokens = inputs[self.field.name]
        shifted = {self.field.name: F.pad(tokens, (1, 0), value=self.end)}
        if self.field.ragged:
            shifted[self.field.lengths] = (tokens != self.end).sum(1) + 1
        logits = main_output(network(inputs.replaced(shifted)), "logits")
        if logits.dim() != 3 or logits.shape[1] != tokens.shape[1] + 1 or logits.shape[2] < self.field.size:
            raise UserError(
                f"The network gives {tuple(logits.shape)} for tokens {tuple(shifted[self.field.name].shape)}; expected "
                f"logits (N, L, {self.field.size}).",
                "Take vocab_size in its constructor, and give logits at each place.",
            )
        return logits

    def _targets(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the token of each place, (N, L + 1): that after the last is the end, if texts have one."""
        tokens = batch[self.field.name].long()
        if not self.field.ragged:
            return F.pad(tokens, (0, 1), value=IGNORED)
        places, lengths = torch.arange(tokens.shape[1] + 1, device=tokens.device), batch[self.field.lengths][:, None]
        targets = torch.where(places < lengths, F.pad(tokens, (0, 1), value=self.end), self.end)
        return torch.where(places <= lengths, targets, IGNORED)
