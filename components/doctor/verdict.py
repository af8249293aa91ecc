"""What the doctor says: verdicts, and a report of them."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Grade = Literal["pass", "warn", "fail"]
SEVERITY: dict[Grade, int] = {"fail": 2, "warn": 1, "pass": 0}


@dataclass(frozen=True)
class Verdict:
    """What one check found in one place."""

    check: str
    verdict: Grade
    layer: str
    """Dotted name of the layer; empty for the network as a whole."""
    evidence: str
    """What was measured, in numbers."""
    remedy: str
    """What to do about it; empty where nothing is to be done."""


@dataclass(frozen=True)
class Report:
    """All verdicts on a network, in the order of the checks."""

    verdicts: Sequence[Verdict]
    seconds: float
    left_out: Sequence[str] = ()
    """Checks that could not run because an earlier one failed."""

    @property
    def worst(self) -> Grade:
        """The gravest of the verdicts."""
        return max((verdict.verdict for verdict in self.verdicts), key=SEVERITY.__getitem__, default="pass")

    def as_json(self) -> dict[str, object]:
        """Give the report as plain values that the json module takes."""
        return {
            "worst": self.worst,
            "seconds": round(self.seconds, 3),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "left_out": list(self.left_out),
        }

    def lines(self) -> list[str]:
        """Give the report for people, every verdict: what failed first, what passed last."""
        lines = []
        for verdict in sorted(self.verdicts, key=lambda verdict: -SEVERITY[verdict.verdict]):
            lines += _told(verdict)
        return [*lines, *self._end()]

    def shown(self) -> list[str]:
        """Give the report for a terminal: what failed last, next to the prompt, and what passed by name alone.

        Where all passed, each is told with what was measured.
        """
        if self.worst == "pass":
            return self.lines()
        passed = dict.fromkeys(one.check for one in self.verdicts if one.verdict == "pass")
        lines = textwrap.wrap(", ".join(passed), 110, initial_indent="pass  ", subsequent_indent="      ")
        for verdict in sorted(self.verdicts, key=lambda verdict: SEVERITY[verdict.verdict]):
            if verdict.verdict != "pass":
                lines += _told(verdict)
        return [*lines, *self._end()]

    def _end(self) -> list[str]:
        counts = ", ".join(
            f"{sum(verdict.verdict == grade for verdict in self.verdicts)} {grade}" for grade in SEVERITY
        )
        left_out = [f"left out, because of what failed: {', '.join(self.left_out)}"] if self.left_out else []
        return [*left_out, f"{counts}  ({self.seconds:.1f} s)"]


def _told(verdict: Verdict) -> list[str]:
    where = f" in {verdict.layer}" if verdict.layer else ""
    line = f"{verdict.verdict}  {verdict.check}{where}: {verdict.evidence}"
    return [line, f"      {verdict.remedy}"] if verdict.remedy else [line]
