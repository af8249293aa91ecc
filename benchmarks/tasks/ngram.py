"""An interpolated Kneser-Ney model of order 5 (Chen & Goodman 1999), beside which a language model is measured."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

ORDER = 5
END = 0
"""Token around a text."""


class KneserNey:
    """Probabilities of tokens, from those before them.

    Example:
        >>> KneserNey([[5, 6], [5, 7]]).bits([[5, 6]]) > 0
        True
    """

    def __init__(self, texts: Sequence[Sequence[int]]):
        self.size = 1 + max(max(text) for text in texts)
        counts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(ORDER + 1)]  # by length
        for text in texts:
            counts[ORDER].update(grams(text))
        for length in range(ORDER - 1, 0, -1):  # lower orders count the different contexts of a token
            counts[length].update(gram[1:] for gram in counts[length + 1])
        self.tables = [Table(counts[length]) for length in range(1, ORDER + 1)]

    def probability(self, gram: tuple[int, ...]) -> float:
        """Return the probability of the last token after the others."""
        if not gram:
            return 1 / self.size
        table, lower = self.tables[len(gram) - 1], self.probability(gram[1:])
        total = table.total[gram[:-1]]
        if not total:
            return lower
        discounted = max(table.counts[gram] - table.discount, 0)
        return (discounted + table.discount * table.kinds[gram[:-1]] * lower) / total

    def bits(self, texts: Sequence[Sequence[int]]) -> float:
        """Return the bits a token, with the end of each text."""
        costs = [-math.log2(self.probability(gram)) for text in texts for gram in grams(text)]
        return sum(costs) / len(costs)


class Table:
    """Counts of n-grams of one length, and their discount."""

    def __init__(self, counts: Counter[tuple[int, ...]]):
        self.counts = counts
        ones, twos = (sum(count == size for count in counts.values()) for size in (1, 2))
        self.discount = ones / (ones + 2 * twos) if ones else 0.0
        self.total: dict[tuple[int, ...], int] = defaultdict(int)
        self.kinds: dict[tuple[int, ...], int] = defaultdict(int)
        for gram, count in counts.items():
            self.total[gram[:-1]] += count
            self.kinds[gram[:-1]] += 1


def grams(text: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the n-grams of the largest order that end at each token of a text, and at its end."""
    padded = [END] * (ORDER - 1) + list(text) + [END]
    return [tuple(padded[at - ORDER + 1 : at + 1]) for at in range(ORDER - 1, len(padded))]
