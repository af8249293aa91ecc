"""Saliency by Captum: pixels, tokens or columns that support an answer, or speak against it."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from torchmill.components.data.encoding import Encoding
from torchmill.components.data.inspection.contact_sheet import picture, typeface
from torchmill.components.data.samples import Samples
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import PADDING, UNKNOWN, Vocabulary
from torchmill.components.evaluation.analysis.mistakes import INK, QUIET, RED, fitting
from torchmill.components.files import write_atomically
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.refs import DataRef
from torchmill.components.tasks import Mistake

EACH = 4
"""Right and wrong cases."""
STEPS = 24
"""Of the integral; its error is told with it."""
COLUMNS_SHOWN = 12
CELL, GAP, TITLE, CAPTION = 112, 8, 150, 22
"""Pixels of the picture."""


@dataclass(frozen=True)
class Case:
    """An answer that is to be explained."""

    sample: int
    output: int
    """Class, label or target whose output is explained."""
    answer: str
    truth: str
    right: bool


@dataclass
class Saliency:
    """Attributions of some answers, and notes on methods that failed."""

    notes: list[str] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    """Of texts: tokens and what each contributes to the answer's output. Of numbers: cells, those that count most."""
    picture: Path | None = None


def cases(outputs: np.ndarray, truth: np.ndarray, data: DataRef, mistakes: Sequence[Mistake]) -> list[Case]:
    """Choose right answers, of as many classes as possible, and the worst mistakes."""
    worst = [Case(mistake.sample, mistake.output, mistake.answer, mistake.truth, False) for mistake in mistakes[:EACH]]
    if not data.task_object.is_exclusive:
        return worst
    answers = outputs.argmax(1)
    right = np.flatnonzero(answers == truth)
    firsts = [right[truth[right] == number][:1] for number in np.unique(truth[right])]
    of_classes = np.concatenate(firsts)[:: max(1, len(firsts) // EACH)] if firsts else right
    chosen = of_classes[:EACH] if len(of_classes) >= EACH else right[:EACH]
    names = data.classes
    return [
        *(Case(row, int(truth[row]), names[truth[row]], names[truth[row]], True) for row in chosen.tolist()),
        *worst,
    ]


def explain(
    model: StandardizedModel,
    test: Samples,
    data: DataRef,
    chosen: Sequence[Case],
    encoding: Encoding | None,
    folder: Path,
) -> Saliency:
    """Explain some answers, by pixels, tokens or columns; of images ``saliency.png`` is written into the folder.

    Whatever of it fails, for a network may be anything, is told in the notes: an evaluation is worth as much without.
    """
    saliency = Saliency()
    if not chosen:
        return saliency
    modes = [weight.requires_grad for weight in model.parameters()]
    # cuDNN's recurrent layers have no backward in evaluation mode; torch's own have.
    with warnings.catch_warnings(), torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
        warnings.simplefilter("ignore")  # Captum warns of hooks and gradients that it sets itself
        if data.field.is_picture:
            _of_images(model, test, chosen, saliency, folder / "saliency.png")
        elif data.field.is_sequence:
            _of_texts(model, test, chosen, encoding if isinstance(encoding, Vocabulary) else None, saliency)
        else:
            _of_numbers(model, test, chosen, encoding if isinstance(encoding, Columns) else None, saliency)
    for weight, mode in zip(model.parameters(), modes, strict=True):
        weight.grad = None
        weight.requires_grad_(mode)
    return saliency


def _of_images(model: StandardizedModel, test: Samples, chosen: Sequence[Case], saliency: Saliency, path: Path) -> None:
    device, targets = model.offset.device, [case.output for case in chosen]
    raw, _ = test.take(torch.tensor([case.sample for case in chosen]))
    inputs = model.standardized(raw.to(device))
    rows: dict[str, list[Image.Image]] = {"image": [picture(image, CELL) for image in raw.cpu().numpy()]}

    def integrated() -> list[Image.Image]:
        from captum.attr import IntegratedGradients

        # The baseline is 0: of standardised pixels that is the mean image of training.
        whole = IntegratedGradients(model.network).attribute(
            inputs, target=targets, n_steps=STEPS, internal_batch_size=64
        )
        return [signed(layer) for layer in whole.detach().sum(1).cpu().numpy()]

    def grad_cam() -> list[Image.Image]:
        from captum.attr import LayerAttribution, LayerGradCam

        layer = _last_convolution(model.network)
        coarse = LayerGradCam(model.network, layer).attribute(inputs, target=targets, relu_attributions=True)
        size = (inputs.shape[2], inputs.shape[3])
        fine = LayerAttribution.interpolate(coarse, size, "bilinear")
        if not bool((coarse.flatten(1) > 0).any(1).all()):
            saliency.notes.append("Grad-CAM is empty if no part of the last convolution's map supports the answer.")
        pictures = zip(rows["image"], fine.detach()[:, 0].cpu().numpy(), strict=True)
        return [glowing(image, heat) for image, heat in pictures]

    _try("Integrated gradients", "integrated gradients", integrated, rows, saliency)
    if any(isinstance(layer, nn.Conv2d) for layer in model.network.modules()):
        _try("Grad-CAM", "Grad-CAM", grad_cam, rows, saliency)
    else:
        saliency.notes.append("Grad-CAM needs a two-dimensional convolution; this network has none.")
    if len(rows) > 1:
        _draw(rows, chosen, path)
        saliency.picture = path


def _of_texts(
    model: StandardizedModel, test: Samples, chosen: Sequence[Case], vocabulary: Vocabulary | None, saliency: Saliency
) -> None:
    embeddings = [layer for layer in model.network.modules() if isinstance(layer, nn.Embedding)]
    tokens = vocabulary.tokens if vocabulary else ()
    fitting_layers = [layer for layer in embeddings if tokens and layer.num_embeddings >= len(tokens)]
    if not fitting_layers:
        saliency.notes.append("Token attributions need an nn.Embedding of the tokens; this network has none.")
        return

    def attribute(case: Case) -> dict[str, Any]:
        from captum.attr import LayerIntegratedGradients

        ids, _ = test.take(torch.tensor([case.sample]))
        ids = ids.long().to(model.offset.device)
        # Beside the text stands one of the same length whose tokens are all unknown: what attends to padding alone
        # has no answer.
        baseline = torch.where(ids == PADDING, ids, UNKNOWN)
        layer = LayerIntegratedGradients(model.network, fitting_layers[0])
        whole = layer.attribute(ids, baselines=baseline, target=case.output, n_steps=STEPS)
        assert isinstance(whole, Tensor)
        values = whole.detach().reshape(ids.shape[1], -1).sum(1).cpu().numpy()
        shown = [number for number in range(ids.shape[1]) if ids[0, number] != PADDING]
        return _case(case, [tokens[int(ids[0, at])] for at in shown], [float(values[at]) for at in shown])

    _try("Token attribution", "texts", lambda: [attribute(case) for case in chosen], {}, saliency)


def _of_numbers(
    model: StandardizedModel, test: Samples, chosen: Sequence[Case], columns: Columns | None, saliency: Saliency
) -> None:
    raw, _ = test.take(torch.tensor([case.sample for case in chosen]))
    rows = raw.cpu().flatten(1).numpy()
    inputs = model.standardized(raw.to(model.offset.device))

    def attribute() -> list[dict[str, Any]]:
        from captum.attr import IntegratedGradients

        # The baseline is 0: of standardised numbers that is the mean of training.
        targets = [case.output for case in chosen]
        whole = IntegratedGradients(model.network).attribute(
            inputs, target=targets, n_steps=STEPS, internal_batch_size=64
        )
        values = whole.detach().flatten(1).cpu().numpy()
        return [
            _case(case, *_by_column(row, contributions, columns))
            for case, row, contributions in zip(chosen, rows, values, strict=True)
        ]

    _try("Integrated gradients", "texts", attribute, {}, saliency)


def _by_column(row: np.ndarray, values: np.ndarray, columns: Columns | None) -> tuple[list[str], list[float]]:
    """Give the cells of a row that count most, with their columns' names, and how much each counts."""
    if columns:
        cells = [f"{name} {cell}" for name, cell in columns.cells(row).items()]
        sums = np.array([values[span].sum() for span in columns.spans.values()])
    else:
        cells, sums = [f"feature {number} {value:.5g}" for number, value in enumerate(row)], values
    most = np.argsort(-np.abs(sums), kind="stable")[:COLUMNS_SHOWN]
    return [cells[at] for at in most], [float(sums[at]) for at in most]


def _case(case: Case, tokens: list[str], values: Sequence[float]) -> dict[str, Any]:
    return {
        "sample": case.sample,
        "truth": case.truth,
        "answer": case.answer,
        "right": case.right,
        "tokens": tokens,
        "attributions": [float(f"{value:.4g}") for value in values],
    }


def _try(name: str, row: str, work: Callable[[], list[Any]], rows: dict[str, list[Any]], saliency: Saliency) -> None:
    try:
        results = work()
    except Exception as error:  # of Captum, or of a network that bears no gradient to its input: anything
        words = " ".join(str(error).split())[:300] or type(error).__name__
        saliency.notes.append(f"{name} does not work on this network: {words}")
        return
    if row == "texts":
        saliency.texts = results
    else:
        rows[row] = results


def _last_convolution(network: nn.Module) -> nn.Module:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][-1]


def signed(values_HW: np.ndarray) -> Image.Image:
    """Draw what speaks for the answer in red and what against it in blue, the strongest hundredth in full colour."""
    strength = np.abs(np.nan_to_num(values_HW))
    share = np.clip(strength / max(float(np.quantile(strength, 0.99)), 1e-12), 0, 1)[:, :, None]
    colour = np.where(values_HW[:, :, None] > 0, (198.0, 40.0, 40.0), (30.0, 90.0, 200.0))
    pixels = (255 * (1 - share) + colour * share).round().astype(np.uint8)
    return picture(pixels.transpose(2, 0, 1), CELL)


def glowing(image: Image.Image, heat_HW: np.ndarray) -> Image.Image:
    """Draw an image in grey with what the answer rests on in orange."""
    heat = np.clip(np.nan_to_num(heat_HW) / max(float(heat_HW.max()), 1e-12), 0, 1)
    mask = Image.fromarray((200 * heat).round().astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", image.size, "#f08c1e"), image.convert("L").convert("RGB"), mask)


def _draw(rows: dict[str, list[Image.Image]], chosen: Sequence[Case], path: Path) -> None:
    width, height = TITLE + len(chosen) * (CELL + GAP) + GAP, CAPTION * 2 + len(rows) * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), typeface(12)
    for column, case in enumerate(chosen):
        x = TITLE + column * (CELL + GAP)
        pen.text((x, 5), fitting(case.answer, CELL), fill=INK if case.right else RED, font=font)
        pen.text((x, 23), "right" if case.right else f"is {fitting(case.truth, CELL, 'is ')}", fill=QUIET, font=font)
    for line, (name, pictures) in enumerate(rows.items()):
        top = CAPTION * 2 + line * (CELL + GAP)
        pen.text((GAP, top + CELL // 2 - 8), name, fill=INK, font=font)
        for column, cell in enumerate(pictures):
            sheet.paste(cell, (TITLE + column * (CELL + GAP), top))
    write_atomically(path, lambda partial: sheet.save(partial, "PNG"))
