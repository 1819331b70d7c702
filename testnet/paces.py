"""The emulated speeds of a run's peers: the real renderer, held back to a stated time a step (peer/renderer/pace.py)."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from .outcome import Drawn
from .scenario import Peer

VARIABLE = "NEARLIGHT_PACE"
KEPT = 1.1  # times the stated one


class Paces:
    """One file a peer, in `folder`; it may change while the peer runs."""

    def __init__(self, folder: Path, peers: Iterable[Peer]) -> None:
        self._folder = folder
        self.ms: dict[str, int] = {}  # as stated in the beginning
        self._honest: set[str] = set()
        for peer in peers:
            if peer.step_ms is not None:
                self.set(peer.name, peer.step_ms, peer.claims_step_ms, peer.memory_mib)
                self.ms[peer.name] = peer.step_ms
                if peer.claims_step_ms is None:
                    self._honest.add(peer.name)

    def variables(self, name: str) -> dict[str, str]:
        """For the environment of the peer's process."""
        return {VARIABLE: str(self._file(name))} if name in self.ms else {}

    def set(self, name: str, step_ms: int, claims_ms: int | None, memory_mib: int | None = None) -> None:
        """`claims_ms`: what it says a step took, where that is a lie."""
        value = {
            "step_us": step_ms * 1000,
            "told_step_us": None if claims_ms is None else claims_ms * 1000,
            "memory_mib": memory_mib,
        }
        path = self._file(name)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(value))
        new.replace(path)

    def on_time(self, drawn: Iterable[Drawn], slowed: Collection[str]) -> float | None:
        """Share of the steps that took at most KEPT times their pace; below 1, this machine was too busy.

        By the receipts' spans of honest peers that were never slowed down.
        """
        kept = []
        for job in drawn:
            pace_ms = self.ms.get(job.provider or "")
            if pace_ms is None or job.provider in slowed or job.provider not in self._honest:
                continue
            drawing = [span for span in job.timeline if span["span"] == "step"]
            kept += [
                span["us"] <= pace_ms * 1000 * KEPT
                for span in drawing
                if span["attempt"] == drawing[-1]["attempt"]  # others drew what came of the earlier ones
            ]
        return sum(kept) / len(kept) if kept else None

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.pace.json"
