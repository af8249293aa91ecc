"""Measure two things in turn."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Claim:
    """Ours against another, pair by pair."""

    what: str
    beside: str
    ours: list[float]
    other: list[float]
    unit: str
    reach: str
    note: str = ""

    def as_dict(self) -> dict:
        pairs = zip(self.ours, self.other, strict=True)
        return asdict(self) | {"ratios": [ours / other for ours, other in pairs]}


def in_turn(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run all measures once to warm up, then `rounds` times in turn; every other round in reverse."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds + 1):
        order = list(measures) if turn % 2 else list(reversed(measures))
        for name in order:
            figure = measures[name]()
            print(f"{'warm-up' if turn == 0 else f'round {turn}'}  {name:28} {figure:,.1f}", flush=True)
            if turn:
                figures[name].append(figure)
    return figures
