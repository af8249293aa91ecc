"""Check that the network exports to ONNX, with advice on how to rewrite it if not."""

import re
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path

from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import is_users
from torchmill.components.doctor.verdict import Verdict

REASON_LENGTH = 300  # characters of the exporter's message

# Patterns of the exporter's messages or of the operations in forward, and the remedy for each.
REWRITES = (
    (
        r"pack_padded|packed_sequence|_pack_padded",
        "Replace pack_padded_sequence: run over all steps and gather the state at each sequence's last token.",
    ),
    (
        r"data.dependent|guard|Eq\(|could not .*symbol|boolean value of Tensor|control flow|GuardOnData",
        "Replace 'if tensor:' by torch.where, and loops over values by operations on the whole tensor.",
    ),
    (
        r"\.item|_local_scalar_dense|to a Python|tolist",
        "Keep values in tensors: use no .item(), .tolist() or float(tensor) in forward.",
    ),
    (r"numpy", "Replace NumPy in forward by the same functions of torch."),
    (
        r"adaptive_max_pool|adaptive_avg_pool",
        "Use adaptive pooling to size 1, or a pooling with a fixed kernel and stride.",
    ),
    (
        r"static shape|specialized|[Cc]onstraints violated|dynamic",
        "Take sizes from x.shape instead of a fixed batch size, and replace loops over samples or steps by one "
        "operation.",
    ),
    (
        r"unsupported|not supported|No decomposition|no ONNX|not implemented",
        "Replace that operation by operations that ONNX has.",
    ),
)


def exportable(probe: Probe) -> Iterator[Verdict]:
    """Check that the export succeeds."""
    if probe.check_input.export is None:
        return
    probe.snapshot.restore()
    probe.set_mode(False)
    try:
        probe.check_input.export(probe.network)
    except Exception as error:  # the exporter, on the user's code, can fail in any way
        cause = _root(error)
        text = _reason(cause)
        layer, place = _place(cause, probe)
        yield Verdict(
            "export",
            "fail",
            layer or _layer_in(text, probe),
            f"1 attempt, {type(cause).__name__}: {text}{place}",
            _remedy(probe, f"{text} {error}")
            or "Remove parts of forward until the export succeeds: the last part that you removed is the cause.",
        )
    else:
        yield Verdict("export", "pass", "", "1 attempt succeeded", "")
    finally:
        probe.snapshot.restore()


def _remedy(probe: Probe, message: str) -> str:
    """Return the remedy for packing in forward, else by the exporter's message, else by forward's operations."""
    operations = " ".join(operation.name for operation in probe.eval_trace.operations)
    packing, *rewrites = REWRITES
    if re.search(packing[0], operations):
        return packing[1]
    for candidates, text in ((rewrites, message), (rewrites[:3], operations)):
        for pattern, remedy in candidates:
            if re.search(pattern, text):
                return remedy
    return ""


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """Return an error's message without the advice on how to debug the exporter."""
    text = re.split(r"\n\n|\nCaused by|\nFor more", str(error).strip())[0]
    return textwrap.shorten(" ".join(text.split()), REASON_LENGTH, placeholder=" …")


def _place(error: BaseException, probe: Probe) -> tuple[str, str]:
    """Return the layer that the exporter was tracing, and the line of the user's code in it."""
    layer, place = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        layer = probe.names.get(id(frame.f_locals.get("self")), layer)
        file = Path(frame.f_code.co_filename)
        if is_users(str(file)) and frame.f_code.co_name != "<module>" and not _is_ours(file):
            place = f" ({file.name} line {line})"
    return layer if place else "", place


def _is_ours(file: Path) -> bool:
    """Return True for Torchmill's own code, except its networks, which count as the user's."""
    components = Path(__file__).parents[2]
    return components in file.parents and components / "models" not in file.parents


def _layer_in(text: str, probe: Probe) -> str:
    """Return the longest layer name that the exporter's message marks as a name: "a" may be a word too."""
    names = [name for name, _ in probe.network.named_modules() if name]
    marked = r"""(?:self\.|['"`]){0}\b|\b{0}['"`]"""
    matches = [name for name in names if re.search(marked.format(re.escape(name)), text)]
    return max(matches + [name for name in names if "." in name and name in text], key=len, default="")
