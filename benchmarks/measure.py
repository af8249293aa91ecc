"""Measure two or more things in turn, and state the result as a ratio."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """Our figures and the baseline's, in pairs."""

    subject: str
    baseline: str
    ours: list[float]
    theirs: list[float]
    unit: str
    goal: str
    """Goal of the median ratio, for example ``≥ 0.98``, or ``–`` for none."""
    note: str = ""

    def as_dict(self) -> dict:
        """Return the entry of results.json."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return {
            "what": self.subject,
            "beside": self.baseline,
            "ours": self.ours,
            "other": self.theirs,
            "unit": self.unit,
            "reach": self.goal,
            "note": self.note,
            "ratios": [ours / theirs for ours, theirs in pairs],
        }


def in_turn(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run all measures once to warm up, then ``rounds`` times in turn, every other round in reverse order."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds + 1):
        order = list(measures) if turn % 2 else list(reversed(measures))
        for name in order:
            figure = measures[name]()
            print(f"{'warm-up' if turn == 0 else f'round {turn}'}  {name:28} {figure:,.1f}", flush=True)
            if turn:
                figures[name].append(figure)
    return figures
