"""The simulation of a scenario: exact where nothing is by chance, and compared with real peers."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from testnet import topology
from testnet.agreement import compare, table
from testnet.link import Line
from testnet.outcome import Expect, done
from testnet.scenario import BadScenario, Degrade, Heal, Job, Kill, Scenario, at, load, once_drawing
from testnet.scenario import client as asker
from testnet.scenario import provider as gpu
from testnet.simulation.run import PRODUCT, run_to_ledger
from testnet.simulation.stated import ASK_US, FIXED_US, OFFER_US, RECEIVE_US, StatedWorld, wall_ms
from testnet.swarm import ROOT

from .test_net import can_emulate

RTT_US = 100_000
ALONE_US = ASK_US + OFFER_US + FIXED_US + RECEIVE_US + RTT_US  # to the provider, and back
EXPECTS = (Expect("pictures drawn", done(), at_least=1.0),)


def stated(*jobs, place=None, peers=None):
    return Scenario(
        about="One draws, two ask.",
        topology=place or topology.uniform(RTT_US),
        peers=peers or (gpu("gpu", "there", 100), asker("a", "there"), asker("b", "there")),
        jobs=jobs,
        expects=EXPECTS,
    )


def test_a_picture_takes_what_is_stated_and_measured():
    """The first one opens a stream, which takes a round trip; for the second it was opened ahead."""
    first, second = wall_ms(stated(Job("a"), Job("a", 5.0, steps=3)), seed=1)
    assert first == (RTT_US + ALONE_US + 8 * 100_000) / 1000
    assert second == (ALONE_US + 3 * 100_000) / 1000


def test_each_provider_has_its_own_pace_and_place():
    peers = (gpu("near", "here", 300), gpu("far", "far", 100), asker("a", "here"))
    place = topology.one_far_peer()
    world = StatedWorld(stated(Job("a"), place=place, peers=peers), seed=1)
    assert [world.step_us(0), world.step_us(1)] == [300_000, 100_000]
    assert world.rtt_us == [[topology.METRO_RTT_US, topology.FAR_RTT_US]]
    assert set(world.upload_bytes_per_s) == {100e6 / 8}


def test_who_asks_second_waits_for_the_first():
    first, second = wall_ms(stated(Job("a"), Job("b", 0.2, steps=2)), seed=1)
    assert first == (RTT_US + ALONE_US + 8 * 100_000) / 1000
    alone_ms = (ALONE_US + RTT_US + 2 * 100_000) / 1000
    left_ms = first - 200 - (RTT_US // 2 + RECEIVE_US) / 1000  # until the first one is drawn
    asked_ms = (ASK_US + RTT_US + RTT_US // 2 + OFFER_US) / 1000
    assert second == pytest.approx(alone_ms + left_ms - asked_ms, abs=1e-6)


def test_a_picture_crosses_its_providers_line():
    slow = topology.uniform(RTT_US, 1_000_000)
    world = StatedWorld(stated(Job("a"), place=slow), seed=1)
    (ms,) = wall_ms(stated(Job("a"), place=slow), seed=1)
    assert ms == (RTT_US + ALONE_US + 8 * 100_000 + world.result_bytes * 8) / 1000
    assert slow.place("there").up == Line(1_000_000)


def test_jitter_only_lengthens_a_way():
    jittery = replace(topology.uniform(RTT_US), jitter_share=0.1)
    times = [wall_ms(stated(Job("a"), place=jittery), seed)[0] for seed in range(20)]
    assert min(times) > (RTT_US + ALONE_US + 8 * 100_000) / 1000
    assert len(set(times)) == 20


def test_links_get_worse_while_it_runs_and_heal():
    """A way that is longer, a line that is narrower; of the others, nothing changes."""
    peers = (gpu("gpu", "there", 100), asker("a", "there"), asker("b", "there"))
    jobs = [Job(name, at_s) for at_s in (0.0, 10.0, 20.0, 30.0) for name in ("a", "b")]
    calm = stated(*(replace(job, at_s=job.at_s + 5 * (job.by == "b")) for job in jobs), peers=peers)
    longer = at(9.0, Degrade(("gpu",), to=("a",), more_delay_ms=50))
    narrower = at(19.0, Degrade(("gpu",), up=Line(1_000_000)))
    events = (longer, narrower, at(29.0, Heal()))
    before, after = wall_ms(calm, seed=1), wall_ms(replace(calm, events=events), seed=1)
    upload_ms = StatedWorld(calm, seed=1).result_bytes * 8 / 1000
    added = [round(worse - ms, 3) for worse, ms in zip(after, before, strict=True)]
    assert added == pytest.approx([0, 0, 100, 0, 100 + upload_ms, upload_ms, 0, 0])


def test_a_worse_way_is_noticed_in_virtual_time():
    scenario = load("degraded_link", 1).scenario
    ledger, _ = run_to_ledger(StatedWorld(scenario, seed=1), PRODUCT)
    drawers = [scenario.peers[index].name for index in ledger.chosen]
    assert set(drawers[:3]) == {"near"}
    assert drawers[6:].count("far") >= 4


def test_a_run_is_a_function_of_its_seed():
    scenario = load("agreement", 1).scenario
    assert len(scenario.peers) == 12
    assert len(scenario.jobs) >= 40
    first = wall_ms(scenario, seed=3)
    assert first == wall_ms(scenario, seed=3)
    assert first != wall_ms(scenario, seed=4)
    assert None not in first


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"events": (at(1.0, Kill("gpu")),)}, "It has events"),
        ({"events": (at(1.0, Degrade(("gpu",), loss_millionths=9)),)}, "It has events"),
        ({"events": (at(1.0, Degrade(("a",), up=Line(10**6))),)}, "It has events"),
        ({"events": (once_drawing(0, Degrade(("gpu",), more_delay_ms=9)),)}, "It has events"),
        ({"jobs": ()}, "It has no job"),
        ({"jobs": (Job("a", size_px=128),)}, "not 64 px"),
        ({"jobs": (Job("gpu"),)}, "a provider that asks"),
        ({"broker": "there"}, "It has a broker"),
        ({"topology": topology.uniform(RTT_US, loss_millionths=1)}, "It loses packets"),
        ({"peers": (gpu("gpu", "there", 100, claims_step_ms=50), asker("a", "there"))}, "a peer that lies"),
        ({"peers": (gpu("gpu", "there", 100, warm=False), asker("a", "there"))}, "cold at first"),
        (
            {"peers": (replace(gpu("gpu", "there"), step_ms=None), asker("a", "there"))},
            "without a stated step time",
        ),
    ],
)
def test_what_only_real_peers_can_play_is_refused(changes, sentence):
    with pytest.raises(BadScenario, match=sentence):
        wall_ms(replace(stated(Job("a")), **changes), seed=1)


def test_quantiles_agree_within_what_is_allowed():
    real = [float(ms) for ms in range(1, 101)]
    median, tail = compare(real, [[1.14 * ms for ms in real], [1.14 * ms for ms in real]])
    assert (median.real_ms, tail.real_ms) == (50.0, 95.0)
    assert median.ratio == pytest.approx(1.14)
    assert median.agrees
    assert tail.agrees
    median, tail = compare(real, [[0.8 * ms for ms in real]])
    assert not median.agrees
    assert tail.agrees
    assert "FAILED" in table((median, tail))


def test_a_missing_picture_is_no_agreement():
    for real, simulated in (([1.0, None], [1.0, 1.0]), ([1.0, 1.0], [None, 1.0]), ([], [])):
        assert not any(each.agrees for each in compare(real, [simulated]))
        assert "none" in table(compare(real, [simulated]))


def agree(*words):
    command = [sys.executable, "-m", "testnet", "agree", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)


def test_the_command_refuses_before_it_starts_anyone():
    told = agree("kill_active")
    assert told.returncode == 2
    assert "It has events" in told.stderr
    assert "started" not in told.stderr


@pytest.mark.slow
@pytest.mark.skipif(not can_emulate(), reason="needs TUN devices and namespaces")
def test_the_command_compares_with_real_peers(tmp_path):
    path = tmp_path / "two.py"
    path.write_text(
        "from testnet import topology\n"
        "from testnet.outcome import Expect, done\n"
        "from testnet.scenario import Scenario, client, every, provider\n"
        "SCENARIO = Scenario('Two.', topology.uniform(40_000),\n"
        "    (provider('gpu', 'there', 200), client('asker', 'there')),\n"
        "    every(2.5, 'asker', 3), (Expect('done', done(), at_least=1.0),))\n"
    )
    told = agree(str(path), "--json")
    value = json.loads(told.stdout.splitlines()[-1])
    assert value["pictures"] == 3
    assert [each["share"] for each in value["quantiles"]] == [0.5, 0.95]
    assert value["ok"] == all(each["agrees"] for each in value["quantiles"]) == (told.returncode == 0)
    assert "p50" in told.stderr
