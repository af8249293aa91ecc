"""The inputs again, from a narrow code; a variational network's divergence is part of the loss."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.batches.outputs import main_output, other_outputs
from torchmill.components.errors import UserError
from torchmill.components.metrics.sample_grid import as_rgb, save_grid

NOISE = "noise"
BYTE, WORD = 255.0, 65535.0


class Reconstruction:
    """Loss: nats of each sample. The network gives a reconstruction of the shape of its input.

    A variational network (Kingma & Welling 2014) gives (reconstruction, mean, log of the variance) of its code in
    training and in evaluation; the divergence from a standard normal is added to the loss, which is then the negative
    evidence lower bound. Its forward may take ``noise`` to draw the code by: then ``nats`` estimates the bound, by one
    draw for each sample, and the exported model has the noise as an input. A network that draws by itself must answer
    from the mean in evaluation mode, and ``nats`` is less than the bound.

    Measures: ``nats`` (the loss, of which less is better), ``error`` (root of the mean squared error, with pixels
    scaled to 0…1) and, of variational networks, ``divergence``.

    Args:
        likelihood: ``bernoulli`` takes logits of pixels scaled to 0…1; ``gaussian`` takes values of deviation 1 around
            the standardized input. By default pixels are bernoulli, and numbers gaussian.
        beta: weight of the divergence (Higgins et al. 2017).
        noise: length of the code, which standard normal numbers of the field ``noise`` draw; 0 for no such field.
    """

    main_measure, better = "nats", "lower"

    def __init__(
        self,
        fields: Mapping[str, FieldRef],
        likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto",
        beta: float = 1.0,
        noise: int = 0,
    ):
        inputs = [field for field in inputs_of(list(fields.values())) if field.kind in ("image", "values")]
        if len(inputs) != 1:
            raise UserError(
                f"Reconstruction needs one input of pixels or numbers; the fields are "
                f"{', '.join(field.words() for field in fields.values())}."
            )
        self.field, self.beta = inputs[0], beta
        self.noise = {NOISE: (noise,)} if noise else {}
        usual = "bernoulli" if self.field.kind == "image" else "gaussian"
        self.likelihood = usual if likelihood == "auto" else likelihood
        if self.likelihood == "bernoulli" and self.field.kind != "image":
            raise UserError("The bernoulli likelihood is for pixels.", "Leave --task.args likelihood out.")

    def loss(self, network: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
        output = network(batch)
        parts = {"reconstruction": self._nats(self._main(output, batch), batch).mean()}
        if (divergence := _divergence(output)) is not None:
            parts["divergence"] = self.beta * divergence.mean()
        return parts

    def predict(self, network: torch.nn.Module, inputs: Batch) -> dict[str, Tensor]:
        """Return ``reconstruction``: pixels of 0…1, or standardized numbers; and the ``divergence``, nats."""
        output = network(inputs)
        main = self._main(output, inputs)
        answer = {"reconstruction": main.sigmoid() if self.likelihood == "bernoulli" else main}
        if (divergence := _divergence(output)) is not None:
            answer["divergence"] = divergence
        return answer

    def measure(self, answer: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        given, truth = answer["reconstruction"], self._truth(batch)
        if self.likelihood == "bernoulli":
            nats = F.binary_cross_entropy(given, truth, reduction="none").flatten(1).sum(1)
        else:
            nats = _gaussian(given, truth)
        statistics = {"nats": nats, "squares": (given - truth).square().flatten(1).mean(1)}
        if "divergence" in answer:
            statistics |= {"nats": nats + answer["divergence"], "divergence": answer["divergence"]}
        return statistics

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        measures = {"nats": means["nats"], "error": means["squares"].sqrt()}
        return measures | ({"divergence": means["divergence"]} if "divergence" in means else {})

    def draw(self, network: torch.nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Draw pictures over their reconstructions; and new ones if the network has ``decode(noise)``."""
        if self.likelihood == "gaussian":
            return []
        pictures = {"reconstructions.png": (self._truth(batch), self.predict(network, batch)["reconstruction"])}
        if NOISE in batch and callable(decode := getattr(network, "decode", None)):
            decoded = main_output(decode(batch[NOISE]), "reconstruction", "logits").sigmoid()
            pictures["samples.png"] = (decoded.view_as(pictures["reconstructions.png"][0]),)
        for name, rows in pictures.items():
            save_grid([as_rgb(255 * images.cpu().numpy()) for images in rows], folder / name)
        return [folder / name for name in pictures]

    def _main(self, output: object, inputs: Batch) -> Tensor:
        main = main_output(output, "reconstruction", "logits")
        if main.shape != inputs[self.field.name].shape:
            raise UserError(
                f"The network gives {tuple(main.shape)} for inputs of {tuple(inputs[self.field.name].shape)}.",
                "Give a reconstruction of the input's shape.",
            )
        return main

    def _truth(self, batch: Batch) -> Tensor:
        if self.likelihood == "gaussian":
            return batch[self.field.name]
        return batch.raw[self.field.name].float() / (WORD if self.field.dtype == "uint16" else BYTE)

    def _nats(self, given: Tensor, batch: Batch) -> Tensor:
        truth = self._truth(batch)
        if self.likelihood == "gaussian":
            return _gaussian(given, truth)
        return F.binary_cross_entropy_with_logits(given, truth, reduction="none").flatten(1).sum(1)


def _gaussian(given: Tensor, truth: Tensor) -> Tensor:
    squares = (given - truth).square().flatten(1)
    return 0.5 * (squares.sum(1) + squares.shape[1] * math.log(2 * math.pi))


def _divergence(output: object) -> Tensor | None:
    """Return the divergence of each code from a standard normal, nats (N,); None without a variational code."""
    others = other_outputs(output)
    if len(others) != 2:
        return None
    mean, log_variance = others
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
