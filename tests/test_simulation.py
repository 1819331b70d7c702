import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from protocol.policy.neighbours import CONNECTIONS, MOST_CONNECTIONS
from testnet.command import parse
from testnet.rtt_matrix import from_ms, sphere
from testnet.simulation.command import simulate
from testnet.simulation.outcome import ConservationError, Ledger
from testnet.simulation.provider import Provider
from testnet.simulation.run import ORACLE, POLICIES, PRODUCT, run, run_to_ledger
from testnet.simulation.world import BadWorld, World, WorldConfig

SMALL = {"peers": 12, "requesters": 8, "duration_s": 8.0, "load": 0.5}
SPHERE = sphere(60, seed=1)


def world(seed=1, matrix=SPHERE, **changes):
    return World(WorldConfig(**{**SMALL, **changes}), matrix, seed)


def close_by(places):
    return from_ms(np.zeros((places, places)), "a room")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_is_a_function_of_its_seed(policy):
    first, again, other = run(world(), policy), run(world(), policy), run(world(seed=2), policy)
    assert first == again
    assert first.p50_s != other.p50_s


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("trouble", [{}, {"churn_per_min": 0.3, "away_s": 3.0, "silent": 0.1, "lying": 0.1}])
def test_each_request_ends_at_most_once_and_no_provider_runs_two(policy, trouble, monkeypatch):
    runs = []
    spent = Provider._spent

    def watched(self, attempt):
        runs.append((self.index, attempt.began_us, self._clock.now_us))
        spent(self, attempt)

    monkeypatch.setattr(Provider, "_spent", watched)
    place = world(jitter=0.1, **trouble)
    ledger, result = run_to_ledger(place, policy)
    assert result.requests == len(place.requests)
    done = int((ledger.latency_us >= 0).sum())
    assert done + result.unfinished == result.requests
    if not trouble:
        assert result.unfinished == 0
        assert 0 <= len(runs) - result.requests <= ledger.hedges
        assert result.wasted_fraction <= 0.02
    runs.sort()
    for (here, _, ended_us), (there, began_us, _) in itertools.pairwise(runs):
        assert here != there or ended_us <= began_us


def test_a_request_that_ends_twice_is_an_error():
    ledger = Ledger(world())
    ledger.on_given_up(0)
    with pytest.raises(ConservationError):
        ledger.on_given_up(0)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_one_queue_of_exponential_work_waits_as_theory_says(load):
    place = world(
        matrix=close_by(2), peers=1, requesters=1, models=1, warm_slots=1, requests=25_000, duration_s=1.0
    )
    dice = np.random.default_rng(5)
    count = len(place.requests)
    mean_us = place.run_us(0, 1)
    place.requests.steps[:] = [1] * count
    place.requests.slip[:] = [(slip, slip) for slip in dice.exponential(1.0, count).tolist()]
    gaps = dice.exponential(mean_us / load, count)
    place.requests.at_us[:] = np.cumsum(gaps).astype(int).tolist()
    ledger, result = run_to_ledger(place, "random")
    waited_us = ledger.latency_us.mean() - mean_us - result.where_s["network"] * 1e6
    assert waited_us == pytest.approx(load / (1 - load) * mean_us, rel=0.08)


def test_an_idle_swarm_of_equals_chooses_the_nearest(tmp_path):
    """Each requester asks once: what it learns later, of runs that differ by chance, may outweigh a near tie."""
    trace = tmp_path / "trace"
    trace.write_text("".join(f'{{"at_s": {5 * each}, "requester": {each}}}\n' for each in range(100)))
    place = world(
        matrix=sphere(120, seed=2), peers=20, requesters=100, models=1, warm_slots=1, jitter=0.02, trace=trace
    )
    place.slow[:] = [1.0] * 20
    place.capable[:] = True
    ledger, _ = run_to_ledger(place, PRODUCT)
    nearest = 0
    for requester, chosen in enumerate(ledger.chosen):
        row = place.rtt_us[requester]
        nearest += row[chosen] <= 1.02 * min(row)  # nearer by less than samples can tell is no nearer
    assert nearest >= 95


def test_perfect_knowledge_beats_what_was_heard_and_what_was_heard_beats_chance():
    place = world(peers=40, requesters=30, duration_s=15.0)
    p95 = {name: run(place, name).p95_s for name in (ORACLE, PRODUCT, "random")}
    assert p95[ORACLE] < p95[PRODUCT] < p95["random"]


def test_silent_providers_leave_nothing_unfinished():
    place = world(peers=30, requesters=10, silent=0.1)
    ledger, result = run_to_ledger(place, PRODUCT)
    assert result.unfinished == 0
    assert result.losses_per_request > 0
    assert run(place, "nearest").unfinished > 0
    assert not set(ledger.chosen.tolist()) & place.silent


@pytest.mark.parametrize("seed", [13, 14])
def test_where_a_tenth_leave_each_minute_and_some_are_silent_nothing_is_left_unfinished(seed):
    place = world(seed, peers=20, requesters=20, duration_s=20.0, churn_per_min=0.1, silent=0.03)
    assert (len(place.leaves), len(place.silent)) == (2, 1)
    ledger, result = run_to_ledger(place, PRODUCT)
    assert (result.requests, result.unfinished) == (len(place.requests), 0)
    assert int((ledger.latency_us >= 0).sum()) == len(place.requests)
    assert result.losses_per_request > 0
    assert run(place, "nearest").unfinished > 0  # it tries nothing again


def test_in_an_overloaded_swarm_what_was_given_up_has_ended():
    place = world(peers=4, requesters=6, models=2, load=3.0, silent=0.25, duration_s=20.0)
    ledger, result = run_to_ledger(place, PRODUCT)
    assert ledger.left == 0
    assert 0 < result.unfinished < result.requests


def test_where_not_all_can_be_connected_each_knows_some_and_who_asks_looks_for_more():
    place = world(peers=150, requesters=30, duration_s=10.0, matrix=sphere(180, seed=1))
    swarms = []
    policy = POLICIES[PRODUCT]

    def watched(*what):
        swarms.append(policy(*what))
        return swarms[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(POLICIES, PRODUCT, watched)
        _, result = run_to_ledger(place, PRODUCT)
    (swarm,) = swarms
    assert result.unfinished == 0
    assert swarm.acquaintance.bits > 0
    before = [len(known) for known in swarm.acquaintance.known]
    after = [requester.directory.statistics()["peers"] for requester in swarm.requesters]
    assert max(before) < 150
    assert sum(after) > 1.2 * sum(before)
    connected = [len(requester.connected) for requester in swarm.requesters]
    assert min(connected) >= CONNECTIONS - 2
    assert CONNECTIONS < max(connected) <= MOST_CONNECTIONS + 8  # and those that were dialled for a picture
    # Of those connected, most are nearer than most.
    row = place.rtt_us[0]
    nearness = [sorted(row).index(row[swarm.number_of[peer]]) for peer in swarm.requesters[0].connected]
    assert sorted(nearness)[len(nearness) // 2] < 75


def test_a_trace_says_what_is_asked_when(tmp_path):
    trace = tmp_path / "trace"
    trace.write_text('{"at_s": 2, "requester": 3, "model": 1, "steps": 7}\n\n{"at_s": 0.5}\n')
    requests = world(trace=trace).requests
    assert requests.at_us == [500_000, 2_000_000]
    assert (requests.requester[1], requests.model[1], requests.steps[1]) == (3, 1, 7)
    assert run(world(trace=trace), PRODUCT).unfinished == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has 0 requests"),
        ("what", ":1 is not a JSON object"),
        ('{"at_s": -1}', ":1: at_s must be"),
        ('{"at_s": 1}\n{"at_s": 1, "model": 8}', ":2: model must be a whole number below 8, not 8"),
        ('{"at_s": 1, "steps": 0}', "steps must be"),
    ],
)
def test_a_trace_that_is_none_is_refused_by_its_line(text, sentence, tmp_path):
    trace = tmp_path / "trace"
    trace.write_text(text)
    with pytest.raises(BadWorld, match=sentence):
        world(trace=trace)


@pytest.mark.parametrize(
    "changes",
    [{"peers": 0}, {"load": float("nan")}, {"silent": 1.5}, {"cold_s": (5.0, 1.0)}, {"requests": 0}],
)
def test_a_world_that_cannot_be_is_refused_by_a_sentence(changes):
    with pytest.raises(BadWorld, match=f"^{next(iter(changes))} must be"):
        WorldConfig(**changes)


FEW = ["simulate", "--peers", "8", "--requesters", "6", "--duration-s", "4", "--seeds", "1", "2"]


def test_the_command_prints_one_object_with_the_ratios_to_the_oracle(capsys):
    assert simulate(parse([*FEW, "--policy", "nearlight", "random", "--json"])) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(summary["policies"]) == {"nearlight", "random", "oracle"}
    for values in summary["policies"].values():
        assert values.keys() >= {
            "p50_s", "p95_s", "p99_s", "ratio_p50", "ratio_p95", "refusals_per_request", "messages_per_request",
            "wasted_fraction", "unfinished",
        }  # fmt: skip
        assert len(values["cdf"]["share"]) == len(values["cdf"]["seconds"])
        assert values["cdf"]["seconds"] == sorted(values["cdf"]["seconds"])
        at = dict(zip(values["cdf"]["share"], values["cdf"]["seconds"], strict=True))
        assert (at[0.5], at[0.95], at[0.99]) == (values["p50_s"], values["p95_s"], values["p99_s"])
        assert values["cdf_by_link"]
        assert all(curve["share"] == values["cdf"]["share"] for curve in values["cdf_by_link"].values())
    assert summary["policies"]["oracle"]["ratio_p50"] == 1
    assert len(summary["policies"]["random"]["ratio_p95_by_seed"]) == 2


def test_the_table_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert simulate(parse(FEW)) == 0
    out = capsys.readouterr().out
    for name in POLICIES:
        assert name in out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_a_bad_matrix_ends_the_command_with_a_sentence(tmp_path, capsys):
    rtt_ms = np.full((4, 4), 9.0)
    rtt_ms[1, 2] = -3
    np.savez(tmp_path / "m.npz", rtt_ms=rtt_ms)
    assert simulate(parse([*FEW, "--rtt", str(tmp_path / "m.npz")])) == 2
    assert "rtt_ms[1, 2] is -3 ms" in capsys.readouterr().err
    assert simulate(parse([*FEW, "--load", "0"])) == 2
    assert "load must be" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_print_the_same_bytes():
    command = [sys.executable, "-m", "testnet", *FEW, "--json", "--lying", "0.2", "--churn-per-min", "1"]

    def printed(hash_seed):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        root = Path(__file__).parent.parent
        return subprocess.run(command, capture_output=True, check=True, env=environment, cwd=root).stdout

    assert printed("1") == printed("2") != b""
