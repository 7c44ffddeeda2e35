"""What a criticism is made of, and how its parts are put side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.criticism._tilt import Tilt


class Finding(NamedTuple):
    """One thing that holds of a right model, and whether it holds of this one.

    Attributes:
      name: what was looked at.
      p_value: of the worst place, times the number of places; in [0, 1].
      where: the worst place, in words.
      nats: what mending this alone would gain a data point, about; NaN where it is not measured.
      p_values: of each place, for a picture; any shape.
    """

    name: str
    p_value: float
    where: str
    nats: float
    p_values: np.ndarray


class Criticism(NamedTuple):
    """What was found of a fitted model; `str` of it is a report.

    Attributes:
      findings: the least believable first.
      level: the chance that a right model is called wrong is at most this, whichever its findings.
    """

    findings: tuple[Finding, ...]
    level: float

    @property
    def is_calibrated(self) -> bool:
        """Whether there are no faults."""
        return not self.faults

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that a right model hardly ever gives, the costliest first."""
        found = [f for f in self.findings if f.p_value * len(self.findings) < self.level]
        return tuple(sorted(found, key=lambda f: -np.nan_to_num(f.nats)))

    def __str__(self) -> str:
        """Return the verdict and a line for each finding."""
        if self.is_calibrated:
            verdict = f"calibrated: yes, nothing found at level {self.level:g}"
        else:
            verdict = f"calibrated: no, {len(self.faults)} of {len(self.findings)} fail"
            verdict += f"; look first at {self.faults[0].name}, {self.faults[0].where}"
        lines = [
            f"  {'FAILS' if f in self.faults else 'holds'}  p {f.p_value:8.1e}  "
            f"{'' if np.isnan(f.nats) else f'{f.nats:.3f} nats':>12}  {f.name}: {f.where}"
            for f in self.findings
        ]
        return "\n".join([verdict, *lines])


def criticism(findings: Sequence[Finding], level: float) -> Criticism:
    """Put the least believable finding first."""
    return Criticism(tuple(sorted(findings, key=lambda f: f.p_value)), level)


def of_tilt(name: str, tilt: Tilt, num_points: int, place: str) -> Finding:
    """Return the finding of tilted groups, of which that with the lowest p-value is the worst."""
    worst = int(np.argmin(tilt.p_value))
    direction = "too little" if tilt.tilt[worst] > 0 else "too much"
    cost = tilt.gain[worst] / num_points
    where = f"{place} {worst}".strip() + f", {direction} expected, {cost:.3f} nats"
    # A tilt fitted to a right model gains half a nat in all, on average.
    nats = float((tilt.gain.sum() - 0.5 * np.sum(tilt.tilt != 0)) / num_points)
    return Finding(name, corrected(tilt.p_value), where, nats, tilt.p_value)


def of_p_values(name: str, p_values: np.ndarray, place: str, num_places: int = 0) -> Finding:
    """Return the finding of p-values of places, `place` of each in words by its index."""
    worst = np.unravel_index(np.argmin(p_values), np.shape(p_values))
    index = " and ".join(str(i) for i in worst)
    where = f"{place} {index}".strip() if np.size(p_values) > 1 else place
    p_value = corrected(p_values, num_places)
    return Finding(name, p_value, where, float("nan"), np.asarray(p_values))


def corrected(p_values: np.ndarray, num_places: int = 0) -> float:
    """Return the lowest of p-values times their number (Bonferroni)."""
    return float(min(np.min(p_values) * (num_places or np.size(p_values)), 1.0))
