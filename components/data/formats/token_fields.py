"""Fields of texts, whole or cut into words, and targets of names, as ids."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from torchmill.components.batches.field_refs import TextForm
from torchmill.components.data.content import digests_of, text_digests
from torchmill.components.data.formats.texts import usual_level
from torchmill.components.data.formats.token_targets import at_first_pieces, holds_lists, holds_strings, named_targets
from torchmill.components.data.formats.user_values import kind_of, name_files
from torchmill.components.encoding.texts import TextEncoding
from torchmill.components.encoding.tokenizer import Tokenizer
from torchmill.components.encoding.vocabulary import SPECIAL, UNKNOWN, Level, Vocabulary, tokenize
from torchmill.components.encoding.words import Pieces, form_of
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.wording import count, percent

OPTIONS = ("tokenizer", "level", "lower_case", "max_length")
"""Keys beside the splits that say how texts become tokens."""

MOST_UNKNOWN = 0.5
"""Largest share of training tokens that may become unknown because they occur once."""

FEW_TEXTS, SAMPLES_OF_EACH = 20, 5
"""Different texts, and samples of each on average, that are classes or categories rather than texts."""

MOST_TOLD = 4
"""Faults that an error lists."""

MAX_LENGTH = 256
"""Tokens of a text that count, unless the data or the tokenizer's file says otherwise; lists of words stay whole."""

Columns = Mapping[str, Mapping[str, Any]]
"""Values of each field, by split and name."""


class TextRules(NamedTuple):
    """How texts become tokens, as the user has it."""

    tokenizer: Tokenizer | None = None
    level: Level | None = None
    lower_case: bool | None = None
    max_length: int | None = None


class Encoded(NamedTuple):
    """Fields with ids in place of strings."""

    columns: dict[str, dict[str, Any]]
    names: dict[str, Sequence[str]]
    """Names of ids by field."""
    encoding: TextEncoding | None
    """Encoding of all texts; None if no field holds texts."""
    notes: tuple[str, ...]
    tokens: Mapping[str, TextForm]
    """Forms of the fields that held texts."""
    digests: dict[str, np.ndarray]
    """Digest of each sample's texts by split, from the texts themselves; empty without texts."""
    of_words: Sequence[str] = ()
    """Names of the targets with a label for each word."""

    @property
    def ragged(self) -> frozenset[str]:
        """Fields that are ragged even if all samples have the same length by chance."""
        return frozenset((*self.tokens, *self.of_words))

    @property
    def padding(self) -> int:
        """Id that pads texts."""
        return self.encoding.padding if self.encoding else 0

    def traits(self, name: str) -> dict[str, Any]:
        """Return the entries of a field's description that texts have."""
        if name not in self.tokens:
            return {}
        assert self.encoding
        return {"text": self.tokens[name], "padding": self.padding, "size": len(self.encoding.tokens)}


def text_rules(options: Mapping[str, Any], tokenizer: Tokenizer | None, place: str) -> TextRules:
    """Return the rules that a function gives beside its splits.

    Raises:
        UserError: one has an impossible value.
    """
    level, lower_case, length = (options.get(name) for name in ("level", "lower_case", "max_length"))
    if level is not None and level not in get_args(Level):
        raise UserError(f"{place}: unknown level {level!r}.", nearest(str(level), get_args(Level)))
    if lower_case is not None and not isinstance(lower_case, bool):
        raise UserError(f"{place}: lower_case is {lower_case!r}.", "Give True or False.")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        raise UserError(f"{place}: max_length is {length!r}, not a whole number from 1.")
    if tokenizer and (level is not None or lower_case is not None):
        raise UserError(f"{place}: a tokenizer has its own level and case.", "Leave 'level' and 'lower_case' out.")
    return TextRules(tokenizer, level, lower_case, length)


def token_columns(columns: Columns, targets: frozenset[str], place: str) -> dict[str, Literal["words", "whole"]]:
    """Return the inputs that hold texts: lists of strings, or a string, for each sample.

    Raises:
        UserError: there are so few different texts that they must be classes or categories.
    """
    forms: dict[str, Literal["words", "whole"]] = {}
    for name, values in columns["train"].items():
        if name not in targets and holds_lists(values):
            forms[name] = "words"
        elif name not in targets and holds_strings(values) and not name_files(values):
            forms[name] = "whole"
            _check_texts(values, f"{place}: field '{name}'")
    return forms


def token_digests(columns: Mapping[str, Any], forms: Mapping[str, str]) -> np.ndarray:
    """Return the digest of each sample's texts, uint64 (N,); whole texts that differ by case alone have the same."""
    rows = zip(*(_content(columns[name], form) for name, form in forms.items()), strict=True)
    return digests_of(b"\1".join(row) for row in rows)


def _content(texts: Any, form: str) -> Iterable[bytes]:
    if form == "whole":
        return (digest.tobytes() for digest in text_digests(list(map(str, texts))))
    return ("\0".join(map(str, text)).encode() for text in texts)


def encoded_strings(
    columns: Columns, targets: frozenset[str], named: Mapping[str, Any], rules: TextRules, place: str
) -> Encoded:
    """Return fields of strings or of lists of strings, and targets of strings, as ids.

    Without a tokenizer, inputs share a vocabulary of the training split, in which padding is 0 and unknown 1: a token
    that occurs once there is unknown, too, so that networks learn what to make of unknown ones. Names of targets come
    in sorted order, ``O`` first. A target with a label for each word has the label at the word's first token, and -100
    at all others.

    Args:
        named: names of ids that the user gave, by field.

    Raises:
        UserError: samples hold something else than strings, or nothing.
    """
    train = columns["train"]
    forms = token_columns(columns, targets, place)
    labels = [name for name in train if name in targets and (holds_lists(train[name]) or holds_strings(train[name]))]
    _check(columns, [*forms, *labels], place)
    names: dict[str, Sequence[str]] = {name: tuple(map(str, values)) for name, values in named.items()}
    changed = {split: dict(part) for split, part in columns.items()}
    named_targets(changed, labels, names, place)
    if not forms:
        if rules.tokenizer:
            raise UserError(f"{place} has no texts for the tokenizer.", "Return strings, or lists of words.")
        return Encoded(changed, names, None, (), {}, {})
    encoding, most, words = _encoding(columns, forms, rules)
    pieces: dict[str, dict[str, list[Pieces]]] = {
        split: {name: [_pieces(text, encoding, most) for text in words[split][name]] for name in forms}
        for split in columns
    }
    for split, part in pieces.items():
        for name, texts in part.items():
            changed[split][name] = [np.array(text.ids, np.int64) for text in texts]
    if list(forms.values()).count("words") == 1 and (rules.tokenizer or most):
        name = next(name for name, form in forms.items() if form == "words")
        at_first_pieces(changed, columns, {split: part[name] for split, part in pieces.items()}, targets, place)
    cut_at = {name: form_of(train[name]) for name, form in forms.items() if form == "words"}
    names |= dict.fromkeys(forms, encoding.tokens)
    digests = {split: token_digests(part, forms) for split, part in columns.items()}
    notes = _notes(encoding, pieces, most)
    of_words = [name for name in labels if holds_lists(train[name])]
    return Encoded(changed, names, encoding, notes, {**forms, **cut_at}, digests, of_words)


def _check(columns: Columns, names: Sequence[str], place: str) -> None:
    train = columns["train"]
    faults = [
        fault
        for split, part in columns.items()
        for name in names
        for fault in _faults(part[name], holds_lists(train[name]), f"{split} field '{name}'")
    ]
    if faults:
        more = f"; and {len(faults) - MOST_TOLD} more" * (len(faults) > MOST_TOLD)
        remedy = "Give a string for each sample." if not any(holds_lists(train[name]) for name in names) else ""
        raise UserError(
            f"{place}: {'; '.join(faults[:MOST_TOLD])}{more}.",
            remedy or "Give a list of strings for each sample, none empty.",
        )


def _check_texts(texts: Sequence[Any], place: str) -> None:
    different = sorted(set(map(str, texts)))
    if len(different) <= min(FEW_TEXTS, len(texts) / SAMPLES_OF_EACH):
        raise UserError(
            f"{place} holds {count(len(different), 'different text')} alone: {shortened(different, 4)}.",
            "Name it among the 'targets' if it is a label; give whole numbers if it is a category.",
        )


def _faults(values: Any, are_lists: bool, place: str) -> Iterable[str]:
    for row, value in enumerate(values):
        if not are_lists:
            if not isinstance(value, str):
                yield f"{place}: sample {row} is {kind_of(value)}, and others are strings"
            continue
        if isinstance(value, str) or not isinstance(value, list | tuple | np.ndarray):
            yield f"{place}: sample {row} is {kind_of(value)}, not a list of strings"
        elif not len(value):
            yield f"{place}: sample {row} is empty"
        elif odd := next((at for at, token in enumerate(value) if not isinstance(token, str)), None):
            yield f"{place}: sample {row} has {kind_of(value[odd])} as token {odd}, not a string"


def _encoding(
    columns: Columns, forms: Mapping[str, str], rules: TextRules
) -> tuple[TextEncoding, int | None, dict[str, dict[str, list[Any]]]]:
    """Return the encoding, the largest number of ids of a text, and texts as the encoding takes them."""
    texts: dict[str, dict[str, list[Any]]] = {
        split: {
            name: list(map(str, part[name])) if form == "whole" else [list(map(str, words)) for words in part[name]]
            for name, form in forms.items()
        }
        for split, part in columns.items()
    }
    if rules.tokenizer:
        return rules.tokenizer, rules.max_length or rules.tokenizer.max_length or MAX_LENGTH, texts
    whole = {name: texts["train"][name] for name, form in forms.items() if form == "whole"}
    most = rules.max_length or (MAX_LENGTH if whole else None)
    level = rules.level or (usual_level([text for each in whole.values() for text in each]) if whole else "words")
    lower_case = rules.lower_case if rules.lower_case is not None else len(whole) == len(forms) and level == "words"
    for part in texts.values():
        for name, values in part.items():
            if name in whole:
                part[name] = [tokenize(text, level, lower_case) for text in values]
            elif lower_case:
                part[name] = [[word.lower() for word in words] for words in values]
    longest = max(len(words) for part in texts.values() for name in forms for words in part[name])
    return _vocabulary(texts["train"], level, lower_case, min(longest, most or longest)), most, texts


def _vocabulary(train: Mapping[str, Any], level: Level, lower_case: bool, longest: int) -> Vocabulary:
    """Return the vocabulary of the training texts."""
    counts = Counter(token for texts in train.values() for words in texts for token in words)
    once = sum(number == 1 for number in counts.values()) / max(1, counts.total())
    least = 2 if once <= MOST_UNKNOWN else 1
    frequent = sorted((token for token in counts if counts[token] >= least), key=lambda token: (-counts[token], token))
    return Vocabulary(level, lower_case=lower_case, max_length=max(1, longest), tokens=(*SPECIAL, *frequent))


def _pieces(text: Any, encoding: TextEncoding, most: int | None) -> Pieces:
    return encoding.text_pieces(text, most) if isinstance(text, str) else encoding.pieces(text, most)


def _notes(
    encoding: TextEncoding, pieces: Mapping[str, Mapping[str, Sequence[Pieces]]], most: int | None
) -> tuple[str, ...]:
    """Describe the shares of unknown tokens and of texts that are cut."""
    every = {split: [text for texts in part.values() for text in texts] for split, part in pieces.items()}
    total = sum(map(len, every.values()))
    cut = sum(text.is_cut for texts in every.values() for text in texts)
    notes = [f"{percent(cut / total)} of {total:,} texts are cut after {most:,} tokens (max_length)"] if cut else []
    if isinstance(encoding, Tokenizer):
        return (f"texts become {encoding.cut}", *notes)
    unknown = []
    for split, texts in every.items():
        ids = np.concatenate([np.array(text.ids) for text in texts])
        unknown.append(f"{percent(float((ids == UNKNOWN).mean()))} of {split}")
    known = len(encoding.tokens) - len(SPECIAL)
    return (f"{known:,} different tokens are known; unknown are {', '.join(unknown)}", *notes)
