"""Tokens: int32 ids (N, L), padded at the end, that a vocabulary gives their meaning."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from torchmill.components.encoding.vocabulary import FILE, PADDING, UNKNOWN, WORD, Vocabulary
from torchmill.components.fields import CardCode, Sums
from torchmill.components.reading.rules import USUAL, ReadingRules
from torchmill.components.wording import percent

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from torchmill.components.batches.field_refs import FieldKind
    from torchmill.components.data.samples import Samples
    from torchmill.components.encoding.columns import Columns

NAME = "tokens"
ARGUMENTS = ("vocab_size", "padding_index", "max_length")
LONG = 1000
"""Tokens of a long text."""


ENCODE = """\
vocabulary = json.loads(metadata["vocabulary"])
ids = {token: number for number, token in enumerate(vocabulary["tokens"])}


def encode(text):  # 1 is unknown; an empty text is one unknown token
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = text.lower() if vocabulary["lower_case"] else text
    parts = list(text) if vocabulary["level"] == "characters" else re.findall(r"$pattern", text)
    return [ids.get(part, 1) for part in parts[: vocabulary["max_length"]]] or [1]
"""
"""Python that encodes texts as ``Vocabulary.encode`` does."""

READ = """\
def read($item):  # to answer several at once, pad them to the same length with 0
    text = $text
    if not text.strip():
        raise ValueError("it is empty")
    return np.array(encode(text), np.int64)
"""
LINES = """\
lines = Path(sys.argv[1]).read_bytes().decode("utf-8-sig").removesuffix("\\n").split("\\n")
"""


class Tokens:
    name = NAME
    samples = "texts"
    shape_words = "token ids (int64), sequences of up to (length,)"
    pool_over = "the sequence, for example by a mean over its real tokens"
    feature_word = "feature"

    is_picture, is_sequence, can_mix = False, True, False
    padding = PADDING
    unit = 1.0

    batch_name: str = "tokens"
    batch_kind: "FieldKind" = "ids"
    onnx_input, onnx_type = "tokens", "tensor(int64)"
    bare_input = "tokens"
    dynamic_axes = ("batch", "length")

    def arguments(self, shape: tuple[int, ...], vocabulary_size: int) -> dict[str, int]:
        return {"vocab_size": vocabulary_size, "padding_index": PADDING, "max_length": shape[0]}

    # Data set

    def recognizes(self, inputs: np.ndarray, has_vocabulary: bool) -> bool:
        return has_vocabulary

    def faults(self, inputs: np.ndarray, vocabulary_size: int | None) -> list[str]:
        if inputs.dtype != np.int32 or inputs.ndim != 2 or 0 in inputs.shape:
            return [f"inputs are {inputs.dtype} {inputs.shape}, not int32 (N, L)"]
        if vocabulary_size is not None and inputs.max() >= vocabulary_size:
            return [f"inputs hold token {inputs.max()}, with a vocabulary of {vocabulary_size}"]
        return []

    def statistics(self, inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return (), ()

    def read_encoding(self, folder: Path) -> Vocabulary:
        return Vocabulary.from_json((folder / FILE).read_text(encoding="utf-8"))

    def blank(self, shape: tuple[int, ...], samples: int) -> "Tensor":
        import torch

        return torch.ones(samples, *shape, dtype=torch.int64)

    # Evaluation

    def measures(self, samples: "Samples") -> Iterator[tuple[str, str, np.ndarray]]:
        if samples.lengths is not None:
            yield "length", " tokens", samples.lengths.numpy().astype(float)

    # ONNX model

    def describe_input(
        self, shape: tuple[int, ...], columns: "Columns | None" = None, rules: ReadingRules = USUAL
    ) -> tuple[str, str]:
        return (
            "int64 token ids (batch, length), padded with 0 at the end, 1 for what is not in the vocabulary",
            f"cut after {shape[0]} tokens",
        )

    def describe_bare_input(
        self, shape: tuple[int, ...], columns: "Columns | None" = None, rules: ReadingRules = USUAL
    ) -> tuple[str, str]:
        takes, _ = self.describe_input(shape, columns, rules)
        prepares = f"none: outside, texts have to be cut after {shape[0]} tokens, and an empty one is one unknown token"
        return takes, prepares

    def preprocessing(
        self,
        shape: tuple[int, ...],
        vocabulary_size: int,
        rules: ReadingRules = USUAL,
        columns: "Columns | None" = None,
    ) -> "ModelProto":
        from torchmill.components.onnx_graph.texts import texts

        return texts(vocabulary_size, shape[0]).to_model_proto()

    def card_code(self, shape: tuple[int, ...], rules: ReadingRules, columns: "Columns | None") -> CardCode:
        encode = Template(ENCODE).substitute(pattern=WORD.pattern)
        if rules.text_per == "file":
            read = Template(READ).substitute(item="file", text='Path(file).read_bytes().decode("utf-8-sig")')
            return CardCode(f"{encode}\n\n{read}", "zip(sys.argv[1:], sys.argv[1:])", "one.txt two.txt")
        read = Template(READ).substitute(item="line", text="line")
        return CardCode(f"{encode}\n\n{read}\n\n{LINES}", "enumerate(lines, 1)", "texts.txt")

    # Predictions

    def batch(self, samples: Sequence[Any], vocabulary: Vocabulary | None) -> np.ndarray:
        assert vocabulary
        return vocabulary.encode(samples)

    def batch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (LONG,)

    def sums(self, inputs: np.ndarray, columns: "Columns | None") -> Sums:
        return {"tokens": int((inputs != PADDING).sum()), "unknown": int((inputs == UNKNOWN).sum())}

    def drift(self, total: Mapping[str, Any]) -> dict[str, Any]:
        if not total.get("tokens"):
            return {}
        share = total["unknown"] / total["tokens"]
        return {"unknown_tokens": share, "words": f"{percent(share)} of the tokens were not met in training"}
