"""The one place where the peer reads its clocks."""

import time


def now_us() -> int:
    """Monotonic microseconds, comparable between the processes of one machine (CLOCK_MONOTONIC)."""
    return time.monotonic_ns() // 1000


def wall_us() -> int:
    """Unix microseconds: for people, and to notice clocks that differ; nothing expires by it."""
    return time.time_ns() // 1000
