"""Verdicts of the checks, and the report that collects them."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Grade = Literal["pass", "warn", "fail"]
SEVERITY: dict[Grade, int] = {"fail": 2, "warn": 1, "pass": 0}


@dataclass(frozen=True)
class Verdict:
    """Result of one check for one layer or for the whole network."""

    check: str
    verdict: Grade
    layer: str
    """Dotted name of the layer; empty for the whole network."""
    evidence: str
    """Measurement behind the verdict, in numbers."""
    remedy: str
    """Advice on how to fix the network; empty if there is nothing to fix."""


@dataclass(frozen=True)
class Report:
    """All verdicts on a network, in the order of the checks."""

    verdicts: Sequence[Verdict]
    seconds: float
    skipped: Sequence[str] = ()
    """Checks that did not run because a check they depend on failed."""
    out_of_time: Sequence[str] = ()
    """Checks that did not run because the examination had taken its time."""

    @property
    def worst(self) -> Grade:
        """The most severe grade."""
        return max((verdict.verdict for verdict in self.verdicts), key=SEVERITY.__getitem__, default="pass")

    def as_json(self) -> dict[str, object]:
        """Return the report as plain values that the json module can write."""
        return {
            "worst": self.worst,
            "seconds": round(self.seconds, 3),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "left_out": list(self.skipped),
            "out_of_time": list(self.out_of_time),
        }

    def lines(self) -> list[str]:
        """Return every verdict as text, failures first."""
        lines = []
        for verdict in sorted(self.verdicts, key=lambda verdict: -SEVERITY[verdict.verdict]):
            lines += _verdict_lines(verdict)
        return [*lines, *self._summary()]

    def terminal_lines(self) -> list[str]:
        """Return the report for a terminal: names of the passed checks, then warnings, then failures.

        Failures come last because the prompt is there. If all checks passed, their evidence is listed too.
        """
        if self.worst == "pass":
            return self.lines()
        passed = dict.fromkeys(verdict.check for verdict in self.verdicts if verdict.verdict == "pass")
        lines = textwrap.wrap(", ".join(passed), 110, initial_indent="pass  ", subsequent_indent="      ")
        for verdict in sorted(self.verdicts, key=lambda verdict: SEVERITY[verdict.verdict]):
            if verdict.verdict != "pass":
                lines += _verdict_lines(verdict)
        return [*lines, *self._summary()]

    def _summary(self) -> list[str]:
        counts = ", ".join(
            f"{sum(verdict.verdict == grade for verdict in self.verdicts)} {grade}" for grade in SEVERITY
        )
        skipped = [f"skipped because of the failures: {', '.join(self.skipped)}"] if self.skipped else []
        if self.out_of_time:
            skipped.append(f"left out for lack of time: {', '.join(self.out_of_time)}")
        return [*skipped, f"{counts}  ({self.seconds:.1f} s)"]


def _verdict_lines(verdict: Verdict) -> list[str]:
    place = f" in {verdict.layer}" if verdict.layer else ""
    line = f"{verdict.verdict}  {verdict.check}{place}: {verdict.evidence}"
    return [line, f"      {verdict.remedy}"] if verdict.remedy else [line]
