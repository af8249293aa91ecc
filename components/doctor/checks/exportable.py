"""Whether the network becomes an ONNX model, and what to rewrite where it does not."""

import re
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path

from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import is_users
from torchmill.components.doctor.verdict import Verdict

WORDS = 300  # letters of the exporter's reason

# What the exporter says or the network calls, and what helps.
REWRITES = (
    (
        r"pack_padded|packed_sequence|_pack_padded",
        "Instead of pack_padded_sequence, run over all steps and gather the state at each sequence's last token.",
    ),
    (
        r"data.dependent|guard|Eq\(|could not .*symbol|boolean value of Tensor|control flow|GuardOnData",
        "Replace 'if tensor:' by torch.where, and loops over values by operations on the whole tensor.",
    ),
    (
        r"\.item|_local_scalar_dense|to a Python|tolist",
        "No .item(), .tolist() or float(tensor) in forward: keep values in tensors.",
    ),
    (r"numpy", "No NumPy in forward: torch has the same functions."),
    (r"adaptive_max_pool|adaptive_avg_pool", "Adaptive pooling to 1, or a pooling with fixed kernel and stride."),
    (
        r"static shape|specialized|[Cc]onstraints violated|dynamic",
        "A size of the batch is fixed in forward, or a loop runs over samples or steps: take sizes from x.shape, and "
        "do all of them in one operation.",
    ),
    (
        r"unsupported|not supported|No decomposition|no ONNX|not implemented",
        "Replace that operation by ones that ONNX has.",
    ),
)


def exportable(probe: Probe) -> Iterator[Verdict]:
    """The case's own attempt at exporting succeeds."""
    if probe.case.export is None:
        return
    probe.snapshot.restore()
    probe.mode(False)
    try:
        probe.case.export(probe.network)
    except Exception as error:  # the exporter, on the user's code, can fail in any way
        cause = _root(error)
        text = _reason(cause)
        layer, place = _place(cause, probe)
        used = " ".join(operation.name for operation in probe.evaluated.operations)
        packing, *others = REWRITES
        remedy = packing[1] if re.search(packing[0], used) else ""
        remedy = remedy or next((words for sign, words in others if re.search(sign, f"{text} {error}")), "")
        remedy = remedy or next((words for sign, words in others[:3] if re.search(sign, used)), "")
        yield Verdict(
            "export",
            "fail",
            layer or _layer_in(text, probe),
            f"1 attempt, {type(cause).__name__}: {text}{place}",
            remedy or "Take parts out of forward until it goes through: the last one taken out is the reason.",
        )
    else:
        yield Verdict("export", "pass", "", "1 attempt went through", "")
    finally:
        probe.snapshot.restore()


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """What an error says, without advice on how to debug the exporter."""
    text = re.split(r"\n\n|\nCaused by|\nFor more", str(error).strip())[0]
    return textwrap.shorten(" ".join(text.split()), WORDS, placeholder=" …")


def _place(error: BaseException, probe: Probe) -> tuple[str, str]:
    """The layer whose forward was being traced, and the user's line in it."""
    layer, place = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        layer = probe.names.get(id(frame.f_locals.get("self")), layer)
        file = Path(frame.f_code.co_filename)
        if is_users(str(file)) and frame.f_code.co_name != "<module>" and not _is_ours(file):
            place = f" ({file.name} line {line})"
    return layer if place else "", place


def _is_ours(file: Path) -> bool:
    """Whether it is Torchmill's code round the network; networks that come along are looked at like a user's."""
    here = Path(__file__).parents[2]
    return here in file.parents and here / "models" not in file.parents


def _layer_in(text: str, probe: Probe) -> str:
    """The longest name of a layer that the exporter's words hold, marked as a name: 'a' is a word, too."""
    names = [name for name, _ in probe.network.named_modules() if name]
    marked = r"""(?:self\.|['"`]){0}\b|\b{0}['"`]"""
    found = [name for name in names if re.search(marked.format(re.escape(name)), text)]
    return max(found + [name for name in names if "." in name and name in text], key=len, default="")
