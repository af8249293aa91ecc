"""The better one of two items, by scores that the network gives each of them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.batches.outputs import main_output
from torchmill.components.errors import UserError
from torchmill.components.metrics.sample_grid import as_rgb, save_grid

BETTER, WORSE = "better", "worse"


class Ranking:
    """Loss: -log sigmoid of the better item's score minus the worse one's (Burges et al. 2005).

    Items are the fields ``better`` and ``worse``; or any two inputs of one shape, and a target that is 0 if the first
    is the better one, and 1 if the second is. The network takes one item, whatever its parameter is called, and gives
    a score (N,) or (N, 1). Both items are standardized alike.

    Measures: ``pair_accuracy`` (the main one), the share of pairs in the right order, where a tie counts half; and
    ``log_loss``, the mean loss.
    """

    main_measure = "pair_accuracy"

    def __init__(self, fields: Mapping[str, FieldRef]):
        inputs = {field.name: field for field in inputs_of(list(fields.values()))}
        targets = [field for field in fields.values() if field.is_target]
        named = {BETTER, WORSE} <= inputs.keys()
        items = [inputs[BETTER], inputs[WORSE]] if named else list(inputs.values())
        is_told = named or (len(targets) == 1 and targets[0].kind == "ids" and not targets[0].shape)
        if len(items) != 2 or not is_told or len({(item.kind, item.shape) for item in items}) > 1:
            raise UserError(
                f"Ranking needs two items of one shape, and which one is better; the fields are "
                f"{', '.join(field.words() for field in fields.values())}.",
                "Return {'better': …, 'worse': …}, or two inputs and a 'target' of 0 (the first is better) and 1.",
            )
        if not named and targets[0].size > 2:
            raise UserError(
                f"The target '{targets[0].name}' holds {targets[0].size - 1}; 0 says that {items[0].name} is better, "
                f"and 1 that {items[1].name} is.",
            )
        self.items, self.target = items, None if named else targets[0].name
        means, deviations = ([getattr(item, name) for item in items] for name in ("mean", "std"))
        self.mean = [(first + second) / 2 for first, second in zip(*means, strict=True)]
        self.std = [
            ((a * a + b * b) / 2 + ((m - n) / 2) ** 2) ** 0.5 or 1.0
            for a, b, m, n in zip(*deviations, *means, strict=True)
        ]

    def loss(self, network: torch.nn.Module, batch: Batch) -> Tensor:
        return F.softplus(-self._margin(self._scores(network, batch), batch)).mean()

    def predict(self, network: torch.nn.Module, inputs: Batch) -> dict[str, Tensor]:
        """Return ``scores`` of both items (N, 2), and ``preferred``: 0 for the first, 1 for the second, (N,)."""
        scores = self._scores(network, inputs)
        return {"scores": scores, "preferred": (scores[:, 1] > scores[:, 0]).long()}

    def measure(self, answer: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        margin = self._margin(answer["scores"], batch)
        return {"pair_accuracy": (margin.sign() + 1) / 2, "log_loss": F.softplus(-margin)}

    def draw(self, network: torch.nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Draw pairs of pictures, the one with the higher score above."""
        if self.items[0].kind != "image":
            return []
        scores = self._scores(network, batch)
        pair = torch.stack([batch.raw[item.name].float() for item in self.items], 1)
        rows = torch.arange(len(pair), device=pair.device)
        order = scores.argsort(1, descending=True)
        path = folder / "pairs.png"
        save_grid([as_rgb(pair[rows, order[:, place]].cpu().numpy()) for place in (0, 1)], path)
        return [path]

    def _margin(self, scores: Tensor, batch: Batch) -> Tensor:
        """Return the better item's score minus the worse one's, (N,)."""
        difference = scores[:, 0] - scores[:, 1]
        return difference if self.target is None else torch.where(batch[self.target] == 0, difference, -difference)

    def _scores(self, network: torch.nn.Module, inputs: Batch) -> Tensor:
        scores = []
        for item in self.items:
            score = main_output(network(self._alike(inputs[item.name], item)), "score", "logits")
            if score.shape not in ((len(score),), (len(score), 1)) or len(score) != len(inputs[item.name]):
                raise UserError(
                    f"The network gives {tuple(score.shape)} for {tuple(inputs[item.name].shape)}; expected a score "
                    f"(N,) or (N, 1)."
                )
            scores.append(score.reshape(-1))
        return torch.stack(scores, 1)

    def _alike(self, values: Tensor, item: FieldRef) -> Tensor:
        """Return an item standardized by the mean and deviation of both items."""
        if not item.mean:
            return values
        shape = (1, -1, *(1,) * (values.dim() - 2)) if values.dim() > 1 else (-1,)
        ratios = [(own or 1.0) / both for own, both in zip(item.std, self.std, strict=True)]
        shifts = [(own - both) / std for own, both, std in zip(item.mean, self.mean, self.std, strict=True)]
        return values * values.new_tensor(ratios).view(shape) + values.new_tensor(shifts).view(shape)
