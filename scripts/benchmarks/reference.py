"""How long the model that ships takes on one processor thread, called directly."""

from .child import child
from .figures import Figure
from .jobs import Kind, call

FULL, FEW = Kind(20, 256, 3.0), Kind(4, 256, 1.0)
WARM_CALLS = 2
MAX_FULL_S, MAX_FEW_S = 2.0, 0.5


async def reference(runs: int) -> list[Figure]:
    full_s, few_s = [], []
    async with (
        child("scripts.benchmarks.direct") as plain,
        child("scripts.benchmarks.direct", "few-step") as hasty,
    ):
        await plain.read()
        await hasty.read()
        for run in range(-WARM_CALLS, runs):
            times_s = await call(plain, FULL, abs(run)) / 1e6, await call(hasty, FEW, abs(run)) / 1e6
            if run >= 0:
                full_s.append(times_s[0])
                few_s.append(times_s[1])
    return [
        Figure.median_of(
            "reference_full",
            f"{FULL.steps} steps of {FULL.side_px} px with guidance, one thread, median",
            full_s,
            "s",
            at_most=MAX_FULL_S,
        ),
        Figure.median_of(
            "reference_few",
            f"{FEW.steps} steps of {FEW.side_px} px with the few-step adapter, likewise",
            few_s,
            "s",
            at_most=MAX_FEW_S,
        ),
    ]
