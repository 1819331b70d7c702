"""What the command asks of a running peer, with the peer's own parts in memory and virtual time."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

import peer.service
import peer.wanted
from peer.errors import UserError
from peer.service import SAVED_WITHIN_S, Service
from peer.store.ledger import Ledger
from peer.wanted import of_batch
from protocol.wire.statement import Statement

from .world import MODEL, World, now_us, statement, use_virtual_time

ASKED = {
    "prompt": "a lighthouse",
    "negative": "",
    "model": None,
    "width": None,
    "height": None,
    "steps": 4,
    "guidance_millionths": None,
    "sampler": None,
    "seed": 7,
    "count": 1,
    "remote": True,
}


@pytest.fixture
async def world(autojump_clock, monkeypatch, nursery):
    use_virtual_time(monkeypatch)
    monkeypatch.setattr(peer.service, "now_us", now_us)
    monkeypatch.setattr(peer.wanted, "now_us", now_us)
    world = World(nursery)
    for name in ("alice", "near"):
        await world.add(name, provide=name == "near")
    return world


@pytest.fixture
def service(world, tmp_path):
    alice = world.peers["alice"]
    model = SimpleNamespace(id=MODEL, name="model", family="sd", native=(64, 64), folder=Path("model"))
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    yield Service(
        SimpleNamespace(
            peer=alice.id,
            models={MODEL: model},
            directory=alice.directory,
            gossip=alice.gossip,
            requester=alice.requester,
            ledger=ledger,
            plain_name=alice._name_of,
            name_of=alice._name_of,
        )
    )
    ledger.close()


async def report_of(service):
    """What `peer why` says of the last job."""
    told = []
    await service.handle("why", {"job": None}, lambda kind, body: told.append(body["report"]))
    return json.loads(told[0])


def by_name(timeline):
    return {entry["span"]: (entry["start_us"], entry["us"]) for entry in timeline if entry["critical"]}


async def test_the_time_counts_from_when_the_person_asked_to_when_the_picture_is_on_disk(
    autojump_clock, service
):
    asked_us = now_us()
    await trio.sleep(0.7)
    spans = [["start_peer", asked_us + 1_000, 400_000], ["join", asked_us + 401_000, 200_000]]
    summaries = []

    def on_event(kind, body):
        if kind == "picture":
            summaries.append(json.loads(body["summary"]))
            start_us = now_us() + 3_000
            service.on_saved({"job": summaries[0]["job"], "picture": 0, "start_us": start_us, "us": 20_000})

    body = {**ASKED, "~asked_us": asked_us, "~spans": spans, "~saves": True}
    await service.handle("render", body, on_event)
    (summary,) = summaries
    handed = by_name(summary["timeline"])
    assert (handed["start_peer"], handed["join"]) == ((1_000, 400_000), (401_000, 200_000))
    assert handed["submit"] == (601_000, 99_000)
    assert summary["unaccounted_us"] == 1_000
    report = await report_of(service)
    assert report["wall_us"] == summary["wall_us"] + 23_000
    assert report["unaccounted_us"] == 1_000
    written = by_name(report["timeline"])
    assert written["deliver"] == (summary["wall_us"], 3_000)
    assert written["write_file"] == (summary["wall_us"] + 3_000, 20_000)


@pytest.mark.parametrize(
    ("spans", "asked"),
    [([["join", 0, 10**12]], None), ([["step", 0, 1]], None), ([["join", 0]], None), ([], 10**12)],
)
async def test_what_was_not_before_the_request_is_refused(autojump_clock, service, spans, asked):
    with pytest.raises(UserError):
        await service.handle("render", {**ASKED, "~spans": spans, "~asked_us": asked}, lambda *_: None)


async def test_a_command_that_does_not_say_where_its_picture_is_holds_up_nothing_for_long(
    autojump_clock, service
):
    began = trio.current_time()
    await service.handle("render", {**ASKED, "~saves": True}, lambda *_: None)
    assert SAVED_WITHIN_S < trio.current_time() - began < SAVED_WITHIN_S + 1
    assert "write_file" not in by_name((await report_of(service))["timeline"])


async def test_a_job_is_in_the_ledger_while_it_is_drawn(autojump_clock, service):
    found = []

    def on_event(kind, body):
        if kind == "progress":
            found.append([each.state for each in service._node.ledger.list_jobs(2)])

    await service.handle("render", ASKED, on_event)
    assert found
    assert all(each == ["running"] for each in found)
    assert [each.state for each in service._node.ledger.list_jobs(2)] == ["done"]


async def test_writing_that_a_job_began_delays_nothing(autojump_clock, service, monkeypatch):
    async def slow_disk(function, *args, **_):
        if function == service._node.ledger.put_job:
            await trio.sleep(0.1)
        return function(*args)

    await service.handle("render", ASKED, lambda *_: None)
    usual = await report_of(service)
    monkeypatch.setattr(trio.to_thread, "run_sync", slow_disk)
    await service.handle("render", ASKED, lambda *_: None)
    assert (await report_of(service))["wall_us"] <= usual["wall_us"]


def test_the_pictures_of_a_batch_differ_in_seed_and_salt_only():
    first = Statement.from_untrusted(statement(seed=2**32 - 1).to_bytes())  # as the service holds it
    batch = [of_batch(first, index) for index in range(3)]
    assert [each.seed for each in batch] == [2**32 - 1, 0, 1]
    assert len({each.salt for each in batch}) == len({each.hash for each in batch}) == 3
    for each in batch:
        changed = {**each.to_value(), "seed": first.seed, "salt": first.salt}
        assert changed == first.to_value()
        assert Statement.from_untrusted(each.to_bytes()) == each
