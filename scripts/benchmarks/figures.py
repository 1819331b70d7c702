"""What a benchmark tells: figures with what is wanted of them, and quantiles."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured number.  `runs` values were reduced to it; `details` is plain JSON."""

    name: str
    says: str
    value: float
    unit: str
    runs: int
    at_most: float | None = None
    at_least: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    @property
    def wanted(self) -> str:
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "says": self.says,
            "value": round(self.value, 4),
            "unit": self.unit,
            "wanted": self.wanted,
            "met": self.met,
            "runs": self.runs,
            "details": self.details,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1))]


def load_average() -> float:
    """Processes that ran or waited to, over the last minute."""
    return round(os.getloadavg()[0], 2)
