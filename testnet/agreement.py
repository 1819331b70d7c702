"""`python -m testnet agree`: one scenario with real processes and in virtual time, and how far the two are apart."""

from collections.abc import Sequence
from dataclasses import dataclass

from .outcome import Outcome, quantile
from .scenario import Scenario
from .simulation.stated import wall_ms

ALLOWED = {0.5: 0.15, 0.95: 0.25}  # by quantile: how far the simulation may be from the swarm, as a share
WORLDS = 20  # seeds that are simulated: the product's choices between near equals are by chance


@dataclass(frozen=True)
class Compared:
    """A quantile of the time from "asked" to "on disk", ms; None: a picture is missing.

    `simulated_ms` is of all worlds' pictures together, `worlds_ms` the least and the most of one world.
    """

    share: float
    real_ms: float | None
    simulated_ms: float | None
    worlds_ms: tuple[float, float] | None
    allowed: float

    @property
    def ratio(self) -> float | None:
        """Simulated over real."""
        if self.real_ms is None or self.simulated_ms is None:
            return None
        return self.simulated_ms / self.real_ms

    @property
    def agrees(self) -> bool:
        return self.ratio is not None and abs(self.ratio - 1) <= self.allowed


def compare(real: Sequence[float | None], worlds: Sequence[Sequence[float | None]]) -> tuple[Compared, ...]:
    """Wall times, ms, of the swarm's jobs and of each world's; None: it gave no picture."""
    compared = []
    for share, allowed in ALLOWED.items():
        each = [_quantile(world, share) for world in worlds]
        known = [ms for ms in each if ms is not None]
        together = _quantile([ms for world in worlds for ms in world], share)
        between = (min(known), max(known)) if known else None
        compared.append(Compared(share, _quantile(real, share), together, between, allowed))
    return tuple(compared)


def real_ms(outcome: Outcome) -> list[float | None]:
    return [job.wall_us / 1000 if job.done and job.wall_us is not None else None for job in outcome.select()]


def simulated_ms(scenario: Scenario, seed: int) -> list[list[float | None]]:
    """Of WORLDS worlds; BadScenario for a scenario that only real peers can play."""
    return [wall_ms(scenario, seed * WORLDS + number) for number in range(WORLDS)]


def table(compared: Sequence[Compared]) -> str:
    rows = [("", "real ms", "simulated ms", "one world", "ratio", "allowed", "")]
    for each in compared:
        low, high = each.worlds_ms or (None, None)
        rows.append(
            (
                f"p{each.share * 100:.0f}",
                _shown(each.real_ms),
                _shown(each.simulated_ms),
                f"{_shown(low)} to {_shown(high)}",
                "none" if each.ratio is None else f"{each.ratio:.3f}",
                f"{1 - each.allowed:.2f} to {1 + each.allowed:.2f}",
                "ok" if each.agrees else "FAILED",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True)) for row in rows
    )


def _quantile(times: Sequence[float | None], share: float) -> float | None:
    done = [ms for ms in times if ms is not None]
    return quantile(done, share) if len(done) == len(times) else None


def _shown(ms: float | None) -> str:
    return "none" if ms is None else f"{ms:.0f}"
