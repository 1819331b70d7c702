"""What both networks' training share: a budget in processor minutes, a progress bar, checkpoints."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

CHECKPOINT_EVERY_S = 60
LOG_EVERY_S = 30


def save_checkpoint(path: Path, state: Any) -> None:
    """Write whole or not at all: an interrupted write leaves the old file."""
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def save_array(path: Path, array: np.ndarray) -> None:
    """As `save_checkpoint`, for one array."""
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, array)
    os.replace(unfinished, path)


class Budget:
    """Spends a stage's minutes: processor time on a CPU (all threads), elapsed time on an accelerator.

    `spent_s` carries on from a checkpoint, so a stopped stage resumes where it was.
    """

    def __init__(self, title: str, minutes: float, device: str, spent_s: float = 0.0, step: int = 0) -> None:
        self.step = step
        self.limit_s = minutes * 60
        self.spent_s = spent_s
        self._title = title
        self._clock = time.process_time if device == "cpu" else time.monotonic
        self.loss = 0.0

    @property
    def share_spent(self) -> float:
        return min(1.0, self.spent_s / self.limit_s) if self.limit_s else 1.0

    def got_loss(self, loss: float) -> None:
        self.loss = loss if not self.loss else 0.98 * self.loss + 0.02 * loss

    def steps(self, save: Callable[[], None] = lambda: None) -> Iterator[int]:
        """Step numbers until the budget is spent, with a bar (without a terminal: a line now and then).

        `save` is called between two steps, every CHECKPOINT_EVERY_S of the budget, and at the end.
        """
        console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.4f}  {task.fields[rate]:.2f}/s"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
        )
        first_step, started_s, logged_s, mark = self.step, time.monotonic(), time.monotonic(), self._clock()
        first_spent_s = saved_at_s = self.spent_s
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(self._title, total=1.0, step=self.step, loss=0.0, rate=0.0, left="?")
            while self.spent_s < self.limit_s:
                yield self.step
                self.step += 1
                now = self._clock()
                self.spent_s += now - mark
                mark = now
                elapsed_s = time.monotonic() - started_s
                rate = (self.step - first_step) / elapsed_s
                share = self.share_spent
                left_s = (self.limit_s - self.spent_s) * elapsed_s / max(1e-9, self.spent_s - first_spent_s)
                left = f"{left_s / 60:.1f} min"
                bar.update(task, completed=share, step=self.step, loss=self.loss, rate=rate, left=left)
                if not console.is_terminal and time.monotonic() - logged_s > LOG_EVERY_S:
                    logged_s = time.monotonic()
                    console.print(
                        f"{self._title}: step {self.step}, loss {self.loss:.4f}, {rate:.2f}/s, "
                        f"{self.spent_s / 60:.1f} of {self.limit_s / 60:.1f} processor minutes, left {left}",
                        highlight=False,
                        soft_wrap=True,
                    )
                if self.spent_s - saved_at_s > CHECKPOINT_EVERY_S:
                    saved_at_s = self.spent_s
                    save()
        save()
