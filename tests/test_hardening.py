"""Each scenario is survived, and not survived once the work-around it needs is taken away."""

import re
import subprocess
import sys

import pytest

from peer import hardening

from .hardening_scenarios import SCENARIOS

pytestmark = pytest.mark.slow
HANGS_AFTER_S = 60


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_survives(scenario):
    await scenario()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_does_not_survive_without_the_work_around(scenario):
    work_around, symptom = SCENARIOS[scenario]
    child = subprocess.run(
        [sys.executable, "-m", "tests.hardening_scenarios", scenario.__name__, work_around.__name__],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert child.returncode != 0
    assert re.search(symptom, child.stderr)


def test_every_work_around_has_a_scenario():
    assert {work_around for work_around, _ in SCENARIOS.values()} == set(hardening.WORK_AROUNDS)
