"""Whether the network becomes an ONNX model, and what to rewrite where it does not."""

import re
from collections.abc import Iterator

from components.doctor.subject import Subject
from components.doctor.verdict import Verdict

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
    (r"specialized|[Cc]onstraints violated|dynamic", "A size of the batch is fixed in forward: take it from x.shape."),
    (
        r"unsupported|not supported|No decomposition|no ONNX|not implemented",
        "Replace that operation by ones that ONNX has.",
    ),
)


def exportable(subject: Subject) -> Iterator[Verdict]:
    """The case's own attempt at exporting succeeds."""
    if subject.case.export is None:
        return
    subject.snapshot.restore()
    subject.mode(False)
    try:
        subject.case.export(subject.network)
    except Exception as error:  # the exporter, on the user's code, can fail in any way
        text = " ".join(str(error).split())
        used = " ".join(operation.name for operation in subject.evaluated.operations)
        remedy = next((words for sign, words in REWRITES if re.search(sign, text)), "") or next(
            (words for sign, words in REWRITES[:4] if re.search(sign, used)), "Look at what the reason names."
        )
        yield Verdict(
            "export", "fail", _layer_in(text, subject), f"1 attempt, {type(error).__name__}: {text[:500]}", remedy
        )
    else:
        yield Verdict("export", "pass", "", "1 attempt went through", "")
    finally:
        subject.snapshot.restore()


def _layer_in(text: str, subject: Subject) -> str:
    """The longest name of a layer that the exporter's words hold."""
    names = [name for name, _ in subject.network.named_modules() if name and re.search(rf"\b{re.escape(name)}\b", text)]
    return max(names, key=len, default="")
