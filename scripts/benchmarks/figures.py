"""What a benchmark tells: figures with what is wanted of them, and quantiles."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class NotMeasured(Exception):
    """A number cannot be measured on this machine: what is missing."""


@dataclass(frozen=True)
class Figure:
    """One measured number.  `runs` values, `each`, were reduced to it; `details` is plain JSON."""

    name: str
    says: str
    value: float
    unit: str
    runs: int
    at_most: float | None = None
    at_least: float | None = None
    each: Sequence[float] = ()  # none: the number is no reduction
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def median_of(
        cls,
        name: str,
        says: str,
        each: Sequence[float],
        unit: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> "Figure":
        value = statistics.median(each)
        return cls(name, says, value, unit, len(each), at_most, at_least, each, details or {})

    @property
    def met(self) -> bool:
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    @property
    def wanted(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the most of the runs."""
        return (min(self.each), max(self.each)) if len(self.each) > 1 else None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "says": self.says,
            "value": round(self.value, 4),
            "unit": self.unit,
            "wanted": self.wanted,
            "met": self.met,
            "runs": self.runs,
            "each": [round(value, 4) for value in self.each],
            "details": self.details,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1))]


def load_average() -> float:
    """Processes that ran or waited to, over the last minute."""
    return round(os.getloadavg()[0], 2)
