"""What scripts/bench tells: figures with their spread, what could not be measured, and that README names them all."""

import json
from pathlib import Path

import pytest

from scripts.benchmarks import __main__ as bench
from scripts.benchmarks import arguments
from scripts.benchmarks.figures import Figure, NotMeasured, quantile

ROOT = Path(__file__).parent.parent


def test_a_figure_is_the_median_of_its_runs_and_says_how_far_they_spread():
    figure = Figure.median_of("x", "some ratio", [1.2, 0.9, 1.0], "x", at_least=0.85, at_most=1.15)
    assert (figure.value, figure.spread, figure.runs, figure.met) == (1.0, (0.9, 1.2), 3, True)
    assert figure.wanted == "0.85 to 1.15"
    assert figure.to_json()["each"] == [1.2, 0.9, 1.0]
    assert not Figure("x", "", 2.0, "x", 1, at_least=0.85, at_most=1.15).met
    assert Figure("x", "", 2.0, "x", 1, at_least=1).spread is None


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.51, 3), (0.95, 4), (1.0, 4), (0.0, 1)])
def test_a_quantile_is_the_least_value_that_so_many_do_not_exceed(share, value):
    assert quantile([4, 2, 1, 3], share) == value


def test_what_cannot_be_measured_says_what_is_missing_and_the_others_go_on(monkeypatch, capsys):
    async def lacking(runs):
        raise NotMeasured("links cannot be emulated here: run as root")

    async def good(runs):
        return [Figure.median_of("plan", "choosing", [1.0] * runs, "ms", at_most=5)]

    monkeypatch.setattr(bench, "BENCHMARKS", {"links": lacking, "plan": good})
    monkeypatch.setattr("sys.argv", ["bench", "--json"])
    assert bench.main() == 0
    told = capsys.readouterr()
    value = json.loads(told.out.splitlines()[-1])
    assert value["not_measured"] == [
        {"benchmark": "links", "lacks": "links cannot be emulated here: run as root"}
    ]
    assert [each["name"] for each in value["figures"]] == ["plan"]
    assert "not measured: links cannot be emulated here: run as root" in " ".join(told.err.split())


def test_readme_names_every_benchmark():
    table = (ROOT / "README.md").read_text()
    for name in arguments.NAMES:
        assert f"| `{name}` |" in table
