"""Scenarios: what may be stated, how an outcome is measured and judged, and runs with real peers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from peer.picture import verify_file
from testnet import packets, processes, run_folder, scenario, topology, witness
from testnet.broker import Queue
from testnet.link import Line
from testnet.outcome import (
    Drawn,
    Expect,
    Happened,
    Outcome,
    Part,
    Task,
    attempts_lost,
    busy_s,
    done,
    drawers,
    drawn_by,
    judge,
    know_each_other,
    least_makespan_us,
    most_attempts,
    near_best,
    of_ideal,
    quantile_ms,
    recovery_ms,
    table,
    unaccounted_share,
)
from testnet.scenario import ACTIVE, BadScenario, Degrade, Event, Heal, Job, Kill, Scenario, Slow, at, churn
from testnet.scenario import client as asker
from testnet.scenario import provider as gpu
from testnet.swarm import ROOT, SwarmError

from .test_net import can_emulate

GONE_WITHIN_S = 5


def stated(**changes: object) -> Scenario:
    settings: dict = {
        "about": "It works.",
        "topology": topology.lan(),
        "peers": (gpu("a", "lan"), asker("b", "lan")),
        "jobs": (Job("b"),),
        "expects": (Expect("pictures", done(), at_least=1),),
        **changes,
    }
    return Scenario(**settings)


# --- what may be stated


@pytest.mark.parametrize("name", scenario.names())
def test_the_scenarios_that_come_with_the_project_can_be_read(name: str) -> None:
    first, again = scenario.load(name, seed=7), scenario.load(name, seed=7)
    assert first.name == name
    assert first.scenario.events == again.scenario.events
    assert first.scenario.jobs


def test_the_shortest_scenario_takes_twenty_lines() -> None:
    lines = [len(path.read_text().splitlines()) for path in scenario.FOLDER.glob("[a-z]*.py")]
    assert min(lines) <= 25  # with its docstring and imports


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peers": (gpu("a", "lan"),)}, "One peer at least must not be warm"),
        ({"peers": (gpu("a", "moon"), asker("b", "lan"))}, "has no place 'moon'; it has lan"),
        ({"peers": (asker("a", "lan"), asker("a", "lan"))}, "a name of its own"),
        ({"peers": (gpu("a", "lan", 9_000), asker("b", "lan"))}, "paced to 1 to 1500 ms, not 9000"),
        ({"peers": (gpu("a/b", "lan"), asker("b", "lan"))}, "letters, digits and dashes"),
        ({"jobs": (Job("c"),)}, "no peer 'c', which a job names"),
        ({"events": (at(1, Kill("c")),)}, "no peer 'c', which an event names"),
        ({"events": (at(1, Kill(ACTIVE)),)}, "says which job"),
        ({"events": (at(1, Slow("b", 90)),)}, "has no step_ms"),
        ({"events": (Event(Heal(), drawing=4),)}, "waits for job 4; there are 1 jobs"),
        ({"events": (at(1, Degrade(("c",), more_delay_ms=9)),)}, "no peer 'c', which an event names"),
        ({"events": (at(1, Degrade(("a",), to=("c",), more_delay_ms=9)),)}, "no peer 'c'"),
        ({"events": (at(1, Degrade((), more_delay_ms=9)),)}, "names the peers"),
        ({"events": (at(1, Degrade(("a",))),)}, "makes something worse"),
        ({"events": (at(1, Degrade(("a",), more_delay_ms=-1)),)}, "longer by -1 ms"),
        ({"events": (at(1, Degrade(("a",), more_delay_ms=20_000)),) * 2}, "40 s longer; 30 s is the most"),
        ({"events": (at(1, Degrade(("a",), loss_millionths=2_000_000)),)}, "0 to 1000000 millionths"),
        ({"events": (at(1, Degrade(("a",), to=("b",), up=Line(9))),)}, "shared by all links"),
        ({"expects": ()}, "expects something"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_starts(changes: dict, sentence: str) -> None:
    with pytest.raises(BadScenario, match=sentence):
        stated(**changes)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "neither a SCENARIO nor"),
        ("SCENARIO = 3", "neither a SCENARIO nor"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def scenario(seed):\n    return", "neither"),
        ("(", "SyntaxError"),
        ("\nx = [][1]", "mine.py, line 2: .*IndexError"),
        ("raise SystemExit(3)", "line 1: .*SystemExit: 3"),
        ("def scenario():\n    return", "TypeError"),
    ],
)
def test_a_file_that_is_no_scenario_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(BadScenario, match=sentence):
        scenario.load(str(tmp_path / "mine.py"), seed=1)
    with pytest.raises(BadScenario, match=r"there are .*regions"):
        scenario.load("no-such", seed=1)


def test_churn_is_its_seeds_and_alternates() -> None:
    times = {"seed": 3, "from_s": 0, "until_s": 100, "up_s": 8, "down_s": 3}
    events = churn(("a", "b"), **times)
    assert events == churn(("a", "b"), **times)
    assert events != churn(("a", "b"), **{**times, "seed": 4})
    for name in ("a", "b"):
        kinds = [type(event.action).__name__ for event in events if event.action.peer == name]
        assert kinds == ["Kill", "Restart"] * (len(kinds) // 2)
        assert kinds


# --- what came out


def drawn(number: int, by: str = "b", provider: str | None = "a", ms: int = 500, **changes: object) -> Drawn:
    settings: dict = {
        "number": number,
        "by": by,
        "asked_s": float(number),
        "ended_s": number + ms / 1000,
        "exit_code": 0 if provider else 1,
        "provider": provider,
        "wall_us": ms * 1000,
        "predicted_us": 400_000,
        "unaccounted_us": 5_000,
        "attempts": (("a", "done"),),
        **changes,
    }
    return Drawn(**settings)


def part(provider: str, ms: int) -> Part:
    steps = [{"span": "step", "attempt": "last", "us": ms * 100} for _ in range(10)]
    return Part(provider, ({"span": "step", "attempt": "lost", "us": 9_000_000}, *steps))


def test_a_batch_is_measured_against_what_its_providers_steps_allow() -> None:
    parts = (*(part("a", 100) for _ in range(4)), *(part("b", 200) for _ in range(2)), part("c", 400))
    jobs = (drawn(0, ms=500, pictures=parts), drawn(1, ms=400, pictures=parts[:3]), drawn(2, ms=100))
    outcome = replace(OUTCOME, jobs=jobs)
    assert of_ideal("a", "b", "c")(outcome) == 400 / 500
    assert of_ideal("a")(outcome) == pytest.approx(300 / 400)
    assert of_ideal("a", "nobody")(outcome) is None
    assert least_makespan_us([100, 200, 400], 32) == 1_900


@pytest.mark.parametrize("count", [0, 1001])
def test_a_job_is_one_to_a_thousand_pictures(count: int) -> None:
    with pytest.raises(BadScenario, match="A job is 1 to 1000 pictures"):
        replace(scenario.load("batch", 1).scenario, jobs=(Job("asker", count=count),))


OUTCOME = Outcome(
    jobs=(
        drawn(0, ms=100),
        drawn(1, ms=200),
        drawn(2, by="c", provider="x", ms=900, attempts=(("a", "lost"), ("x", "done"))),
        drawn(3, by="c", provider=None),
    ),
    tasks=(
        Task("1", "a", "c", 2.0, 2.1),
        Task("2", "x", "c", 2.7, 2.8, 3.0, "done"),
        Task("3", "x", "b", 2.6, 2.6),
    ),
    events=(Happened(2.5, "kill", ("a",)),),
    alive=("b", "c", "x"),
    knows={"b": ("c",), "c": ("b", "x"), "x": ("b", "c")},
    emulated=False,
)


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        (done(), 0.75),
        (done(by="b"), 1.0),
        (done(by="nobody"), None),
        (done(since_s=2, until_s=3), 1.0),
        (quantile_ms(0.5), 200),
        (quantile_ms(0.95), 900),
        (drawn_by("a"), 2 / 3),
        (drawn_by("a", by="c"), 0),
        (drawers(), 2),
        (most_attempts(), 2),
        (attempts_lost(), 1),
        (attempts_lost(by="b"), 0),
        (recovery_ms(0), pytest.approx(300)),
        (recovery_ms(5), None),
        (unaccounted_share(), 0.05),
        (know_each_other(), 5 / 6),
    ],
)
def test_measures(measure: Callable, value: float | None) -> None:
    assert measure(OUTCOME) == value


def test_asking_beside_another_or_whoever_is_not_busy_is_no_attempt_lost() -> None:
    asked_well = drawn(0, attempts=(("a", "refused"), ("x", "outrun"), ("b", "done")))
    assert attempts_lost()(replace(OUTCOME, jobs=(asked_well,))) == 0


def test_what_is_near_the_best_in_hindsight() -> None:
    took_ms = {"a": 80.0, "x": 100.0}
    measures = {
        percent: near_best(lambda _outcome, _job, name: took_ms[name], "ax", percent) for percent in (24, 25)
    }
    assert [measures[percent](OUTCOME) for percent in (24, 25)] == [2 / 3, 1.0]


def test_a_provider_is_busy_with_what_it_accepted_before() -> None:
    job = drawn(4, asked_s=2.75)
    assert busy_s(OUTCOME, "x", job) == 0.25  # task 2; of task 3 no end is known
    assert busy_s(OUTCOME, "x", drawn(4, asked_s=2.65)) == 0  # task 2 came later
    assert busy_s(OUTCOME, "x", drawn(4, asked_s=3.5)) == busy_s(OUTCOME, "a", job) == 0


def test_expectations_are_judged_and_told() -> None:
    judged = judge(
        (
            Expect("drawn", done(), at_least=0.75),
            Expect("slowest", quantile_ms(1), at_most=899),
            Expect("nothing to see", done(by="nobody"), at_least=0),
            Expect("needs links", done(), at_least=1, needs_links=True),
        ),
        OUTCOME,
    )
    assert [each.ok for each in judged] == [True, False, False, None]
    assert table(judged).splitlines()[2].split() == ["slowest", "<=", "899", "900", "FAILED"]
    with pytest.raises(ValueError, match="no bound"):
        Expect("x", done())


# --- the broker's queue


def test_the_broker_gives_the_oldest_job_to_the_worker_that_was_idle_longest() -> None:
    queue, one, two, client = Queue(), object(), object(), object()
    assert queue.next() is None
    queue.on_job(client, {"job": b"1"})
    assert queue.next() is None
    queue.on_idle(one)
    queue.on_idle(two)
    queue.on_job(client, {"job": b"2"})
    assert queue.next() == (one, client, {"job": b"1"})
    queue.on_gone(two)
    assert queue.next() is None
    queue.on_gone(client)
    queue.on_idle(one)
    assert queue.next() is None


# --- runs


def run_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "testnet", "run", *arguments]


def test_a_bad_scenario_gets_a_sentence_and_exit_code_2() -> None:
    for arguments, sentence in (
        (["no-such-scenario"], "There is no scenario 'no-such-scenario'"),
        (["partition", "--loopback"], "plain loopback cannot"),
    ):
        command = run_command(*arguments, "--json")
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert sentence in told.stderr
        assert "Traceback" not in told.stderr
        value = json.loads(told.stdout.splitlines()[-1])
        assert sentence in value["error"]
        assert value["exit_code"] == 2


def test_a_measure_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from testnet import topology\n"
        "from testnet.outcome import Expect\n"
        "from testnet.scenario import Job, Scenario, client, provider\n"
        "def measure(outcome):\n"
        "    return outcome.no_such\n"
        "SCENARIO = Scenario('Two.', topology.lan(), (provider('a', 'lan'), client('b', 'lan')), (Job('b'),),\n"
        "    (Expect('something', measure, at_least=1),))\n"
    )
    loaded = scenario.load(str(path), seed=1)
    with (
        pytest.raises(BadScenario, match="line 5: A measure failed: AttributeError"),
        loaded.blamed("A measure failed"),
    ):
        judge(loaded.scenario.expects, OUTCOME)


def test_a_folder_that_cannot_keep_a_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, sentence in ((tmp_path, "is not empty"), (tmp_path / "file" / "in", "cannot be the folder")):
        with pytest.raises(run_folder.BadFolder, match=sentence), run_folder.run_folder(out):
            pass


def test_what_failed_peers_wrote_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "runs_folder", lambda: tmp_path / "runs")

    def fail(*, peers: bool) -> Path:
        made = []
        with contextlib.suppress(SwarmError), run_folder.run_folder(None) as folder:
            made.append(folder)
            if peers:
                (folder / run_folder.PEERS).mkdir()
            raise SwarmError("It left.")
        return made[0]

    kept, gone = fail(peers=True), fail(peers=False)
    assert kept.exists()
    assert not gone.exists()
    assert run_folder.remove_leftovers() == []
    assert kept.exists()


@pytest.mark.slow
def test_what_a_killed_run_left_is_removed_and_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "runs_folder", lambda: tmp_path)
    with subprocess.Popen(["sleep", "60"]) as left:
        killed, alive = tmp_path / "killed", tmp_path / "alive"
        mark, own = processes.mark(left.pid), processes.mark(os.getpid())
        for folder, owner in ((killed, [own.pid, own.created_s - 100]), (alive, [own.pid, own.created_s])):
            (folder / "peers").mkdir(parents=True)
            (folder / processes.RECORD).write_text(json.dumps({"testnet": owner, "peers": []}))
        (killed / "peers" / processes.RECORD).write_text(
            json.dumps({"testnet": [own.pid, own.created_s - 100], "peers": [[mark.pid, mark.created_s]]})
        )
        assert run_folder.remove_leftovers() == [killed]
        assert left.wait(GONE_WITHIN_S) == -signal.SIGKILL
    assert alive.exists()
    assert not killed.exists()


@pytest.mark.slow
def test_a_scenario_of_ones_own_runs_on_loopback_with_a_paced_renderer(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        """
from testnet import topology
from testnet.outcome import Expect, done, drawn_by, quantile_ms
from testnet.scenario import Job, Kill, Scenario, at, client, provider

SCENARIO = Scenario(
    about="A picture, and one expectation that cannot hold.",
    topology=topology.regions(),
    peers=(provider("a", "tokyo", 200), client("b", "sydney"), client("c", "sydney")),
    jobs=(Job("b", steps=4),),
    events=(at(0, Kill("c")),),
    expects=(
        Expect("pictures drawn", done(), at_least=1),
        Expect("ms", quantile_ms(0.5), at_least=800),
        Expect("impossible", drawn_by("b"), at_least=1),
        Expect("far", quantile_ms(0.5), at_least=99_999, needs_links=True),
    ),
)
"""
    )
    out = tmp_path / "out"
    told = subprocess.run(
        run_command(str(tmp_path / "mine.py"), "--loopback", "--json", "--out", str(out)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1, told.stderr
    result = json.loads(told.stdout.splitlines()[-1])
    assert [each["ok"] for each in result["judged"]] == [True, True, False, None]
    assert "FAILED" in told.stderr
    assert not result["ok"]
    assert result["paced_ms"] == {"a": 200}
    assert json.loads((out / "result.json").read_text()) == result
    steps = [span["us"] for span in result["outcome"]["jobs"][0]["timeline"] if span["span"] == "step"]
    assert len(steps) == 4
    # What passed before ACCEPT was heard is the offer's, also of the first step.
    assert min(steps[1:]) >= 200_000
    receipt = verify_file(out / "job-0.png").receipt
    assert receipt is not None
    assert " paced;" in receipt.environment


@pytest.mark.slow
@pytest.mark.skipif(not can_emulate(), reason="no network namespaces or TUN devices here")
def test_a_killed_provider_is_replaced_over_emulated_links_and_the_witness_has_seen_it(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    told = subprocess.run(
        run_command("kill_active", "--out", str(out)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["emulated"]
    sent = [packet for packet in packets.read(out / "packets") if packet.payload_bytes]
    killed = result["hosts"].index(result["outcome"]["events"][0]["peers"][0])
    killed_ns = result["started_us"] * 1000 + round(result["outcome"]["events"][0]["at_s"] * 1e9)
    assert {packet.source for packet in sent} == {0, 1, 2}
    assert max(packet.in_ns for packet in sent if packet.source == killed) < killed_ns + 1_000_000_000
    found = witness.compare(out)
    assert not found.left_out
    assert [each.agrees for each in found.phases if each.phase != "offer"] == [True, True], found


@pytest.mark.slow
def test_a_run_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        run_command("kill_active", "--loopback", "--out", str(tmp_path / "out")),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert "peers started" in process.stderr.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        process.send_signal(signal.SIGINT)
        assert process.wait(10 * GONE_WITHIN_S) == 130
    _, alive = psutil.wait_procs(family, timeout=GONE_WITHIN_S)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []
