"""What a person sees while pictures are drawn: one line and, where the terminal can, a small preview."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from protocol.policy.timeline import duration

from .show import console, sentence

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESHES_PER_S = 10
MIN_PREVIEW_COLUMNS = 40  # of the terminal: below it the preview would leave no room
MIN_PREVIEW_LINES = 20
SPREAD_PERCENT = 15  # of a prediction that nothing has confirmed yet
_BAR_COLUMNS = 16
_NAMED = 4  # of those who draw a batch


def total_range_us(elapsed_us: int, left_us: int | None, predicted_us: int | None) -> tuple[int, int] | None:
    """From and to what the whole will take; None while nothing is known.

    The two ends are the prediction and what the steps so far say (`left_us`), each with its own uncertainty.
    """
    guesses = [] if predicted_us is None else [predicted_us]
    if left_us is not None:
        guesses.append(elapsed_us + left_us)
    if not guesses:
        return None
    low, high = min(guesses), max(guesses)
    if len(guesses) == 1:
        low, high = low * (100 - SPREAD_PERCENT) // 100, high * (100 + SPREAD_PERCENT) // 100
    return max(low, elapsed_us), max(high, elapsed_us)


class Live:
    """On stderr.  Draws nothing that moves where stderr is no terminal; sentences come through everywhere."""

    def __init__(self, count: int) -> None:
        self._console = console(stderr=True)
        self._moving = self._console.is_terminal and not self._console.is_dumb_terminal
        self._pictures = self._moving and self._can_preview()
        self._count = count
        self._finished = 0
        self._left_until_s: float | None = None  # when a batch is expected to be there
        self._asked: dict[tuple[int, int], tuple[str, int | None]] = {}  # by picture and attempt
        self._providers: dict[int, str] = {}  # who draws, or was asked last
        self._predicted_us: dict[int, int | None] = {}
        self._first: dict[int, tuple[int, int]] = {}  # the first step heard of, and when
        self._progress: dict[int, Mapping[str, Any]] = {}
        self._preview: Mapping[str, Any] | None = None
        self._started_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._moving:
            from rich.live import Live as RichLive

            self._live = RichLive(
                get_renderable=self.draw,
                console=self._console,
                transient=True,
                refresh_per_second=REFRESHES_PER_S,
                redirect_stdout=False,
                redirect_stderr=True,
            )
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._moving:
            self._live.stop()

    def on_attempt(self, picture: int, number: int, provider: str, predicted_us: int | None) -> None:
        self._asked[picture, number] = provider, predicted_us
        self._providers[picture], self._predicted_us[picture] = provider, predicted_us

    def on_progress(self, picture: int, progress: Mapping[str, Any]) -> None:
        self._progress[picture] = progress
        asked = self._asked.get((picture, int(progress["number"])))
        if asked is not None:  # of two it need not be the one that was asked last
            self._providers[picture], self._predicted_us[picture] = asked
        first_step, _ = self._first.get(picture, (progress["step"], 0))
        if picture not in self._first or progress["step"] < first_step:  # begun anew elsewhere
            self._first[picture] = progress["step"], progress["elapsed_us"]
        preview = progress.get("preview")
        if preview is not None and picture == min(self._progress):  # one picture's, or they would flicker
            self._preview = preview

    def on_finished(self, picture: int) -> None:
        self._finished += 1
        self._asked = {key: asked for key, asked in self._asked.items() if key[0] != picture}
        self._progress.pop(picture, None)
        self._providers.pop(picture, None)
        self._first.pop(picture, None)
        self._predicted_us.pop(picture, None)
        self._preview = None

    def on_batch(self, left_us: int | None) -> None:
        self._left_until_s = None if left_us is None else time.monotonic() + left_us / 1e6

    def say(self, words: str) -> None:
        """A line that stays."""
        from rich.text import Text

        self._console.print(Text(sentence(words)), soft_wrap=True)

    def draw(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        from .preview import half_blocks

        line = Text(self.line(), no_wrap=True, overflow="ellipsis")
        if not self._pictures or self._preview is None:
            return line
        preview = self._preview
        return Group(half_blocks(preview["width"], preview["height"], preview["rgb"]), line)

    def line(self) -> str:
        """What is going on: of the one picture, or of all."""
        if self._count > 1:
            return self._batch_line()
        elapsed_us = int((time.monotonic() - self._started_s) * 1e6)
        # Copies: events come in beside the thread that draws.
        active = list(self._progress) or list(self._providers)
        picture = min(active, default=None)
        if picture is None:
            return f"choosing a peer · {duration(elapsed_us)}"
        provider = self._providers.get(picture, "a peer")
        progress = self._progress.get(picture)
        if progress is None:
            return f"asking {provider} · {duration(elapsed_us)}"
        step, steps = int(progress["step"]), max(1, int(progress["steps"]))
        known_us = int(progress["elapsed_us"])
        span_us = total_range_us(known_us, self._left_us(picture, progress), self._predicted_us.get(picture))
        whole = "" if span_us is None else f" · {_range(*span_us)} in all"
        return f"{_bar(step, steps)} step {step}/{steps} · {provider} · {duration(elapsed_us)}{whole}"

    def _batch_line(self) -> str:
        elapsed_us = int((time.monotonic() - self._started_s) * 1e6)
        draw = sorted({self._providers.get(picture, "a peer") for picture in list(self._progress)})
        shown = ", ".join(draw[:_NAMED]) + (f" and {len(draw) - _NAMED} more" if len(draw) > _NAMED else "")
        doing = f"drawn by {shown}" if draw else "choosing peers"
        left = ""
        if self._left_until_s is not None:
            left = f" · about {max(0.0, self._left_until_s - time.monotonic()):.1f} s left"
        bar = _bar(self._finished, self._count)
        return f"{bar} {self._finished} of {self._count} done · {doing} · {duration(elapsed_us)}{left}"

    def _left_us(self, picture: int, progress: Mapping[str, Any]) -> int | None:
        """What the steps that are left take, at the pace since the first that was heard of."""
        first_step, first_us = self._first.get(picture, (progress["step"], 0))
        steps = int(progress["step"]) - first_step
        if steps <= 0:
            return None
        left = int(progress["steps"]) - int(progress["step"])
        done_us = int(progress["elapsed_us"]) - first_us
        return int(left * done_us // steps)

    def _can_preview(self) -> bool:
        screen = self._console
        return (
            screen.color_system == "truecolor"
            and not screen.no_color
            and "utf" in screen.encoding.lower()
            and screen.width >= MIN_PREVIEW_COLUMNS
            and screen.height >= MIN_PREVIEW_LINES
        )


def _bar(done: int, of: int) -> str:
    filled = min(_BAR_COLUMNS, done * _BAR_COLUMNS // of)
    return "━" * filled + "─" * (_BAR_COLUMNS - filled)


def _range(low_us: int, high_us: int) -> str:
    low, high = f"{low_us / 1e6:.1f}", f"{high_us / 1e6:.1f}"
    return f"about {low} s" if low == high else f"{low} to {high} s"
