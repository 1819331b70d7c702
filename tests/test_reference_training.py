"""What training the reference model stands on: budgets that resume, averages, and the few-step adapter's arithmetic."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # torch's and diffusers' own warnings


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_budget_is_spent_by_the_clock_and_resumes_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.reference import training

    clock = Clock()
    monkeypatch.setattr(training.time, "process_time", clock)

    def run(budget: training.Budget, stop_after: int) -> list[int]:
        numbers = []
        for number in budget.steps():
            numbers.append(number)
            clock.now_s += 10
            if len(numbers) == stop_after:
                break
        return numbers

    first = training.Budget("a stage", 1.0, "cpu")
    assert run(first, 3) == [0, 1, 2]
    assert (first.spent_s, first.step) == (20.0, 2)  # the third step was not finished
    again = training.Budget("a stage", 1.0, "cpu", first.spent_s, first.step)
    assert run(again, 99) == [2, 3, 4, 5]
    assert again.share_spent == 1.0
    assert run(training.Budget("a stage", 1.0, "cpu", again.spent_s, again.step), 99) == []


def test_a_stage_is_saved_once_a_minute_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.reference import training

    clock = Clock()
    monkeypatch.setattr(training.time, "process_time", clock)
    budget, saved_s = training.Budget("a stage", 3.0, "cpu"), []
    for _ in budget.steps(lambda: saved_s.append(budget.spent_s)):
        clock.now_s += 10
    assert saved_s == [70.0, 140.0, 180.0]


def test_an_interrupted_checkpoint_leaves_the_old_one(tmp_path: Path) -> None:
    import torch

    from scripts.reference.training import save_checkpoint

    path = tmp_path / "stage.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(AttributeError):
        save_checkpoint(path, {"step": 2, "unpicklable": lambda: None})
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_an_average_follows_quickly_first_and_slowly_then() -> None:
    import torch

    from scripts.reference.denoiser import AVERAGE_DECAY, Average

    parameter = torch.zeros(3)
    average = Average([parameter])
    parameter += 1
    average.follow([parameter], 0)  # 1/10 is kept of what was there
    assert average.shadow[0].tolist() == pytest.approx([0.9] * 3)
    average.follow([parameter + 1], 1_000_000)
    assert average.shadow[0].tolist() == pytest.approx([0.9 + (1 - AVERAGE_DECAY) * 1.1] * 3)


def test_the_students_leg_is_one_ddim_step() -> None:
    """The velocity computed from where a leg starts and ends takes DDIM exactly from one to the other."""
    import torch

    from scripts.reference import adapters, denoiser

    schedule = denoiser.scheduler()
    schedule.set_timesteps(adapters.STUDENT_STEPS)
    generator = torch.Generator().manual_seed(1)
    for leg, timestep in enumerate(schedule.timesteps):
        here = torch.randn(2, 4, 8, 8, generator=generator)
        v = torch.randn(2, 4, 8, 8, generator=generator)
        there = schedule.step(v, timestep, here).prev_sample
        found = adapters.leg_velocity(here, there, torch.full((2,), leg))
        assert torch.allclose(found, v, atol=1e-3), leg


def test_timesteps_reach_pure_noise_and_crowd_in_the_middle() -> None:
    import torch

    from scripts.reference.denoiser import NATIVE_CELLS, PURE_NOISE_SHARE, draw_timesteps

    torch.manual_seed(0)
    drawn = draw_timesteps(20_000, 1000, NATIVE_CELLS**2)
    assert (drawn.min() >= 0) & (drawn.max() == 999)
    assert float((drawn == 999).float().mean()) == pytest.approx(PURE_NOISE_SHARE, abs=0.01)
    middle = float(((drawn > 250) & (drawn < 750)).float().mean())
    assert middle > 0.55  # of a uniform draw it would be half


def test_larger_pictures_are_seen_through_more_noise() -> None:
    import torch

    from scripts.reference.denoiser import NATIVE_CELLS, draw_timesteps

    torch.manual_seed(0)
    small, native, large = (
        draw_timesteps(40_000, 1000, cells).double()
        for cells in (NATIVE_CELLS**2 // 4, NATIVE_CELLS**2, 4 * NATIVE_CELLS**2)
    )
    assert abs(small.median() - native.median()) < 10  # those below are drawn as if they were native
    # A half, shifted: 2 / 3; a few more are at the very first step.
    assert abs(large.median() - 1000 * 2 * 0.5 / 1.5) < 25


def test_adapters_are_exported_with_the_description_that_ships(tmp_path):
    from scripts.reference import adapters

    shipped = Path(__file__).parent.parent / "peer" / "reference_adapters"
    for name in adapters.DESCRIPTIONS:
        adapters.describe(name, tmp_path)
        written = (tmp_path / adapters.DESCRIPTION_FILE).read_bytes()
        assert written == (shipped / name / adapters.DESCRIPTION_FILE).read_bytes()
