"""What the command asks of a running peer, with the peer's own parts in memory and virtual time."""

import json

import pytest
import trio

from peer.drawing import SAVED_WITHIN_S
from peer.errors import UserError
from peer.wanted import of_batch
from protocol.wire.statement import Statement

from .asker import Asker
from .world import now_us, statement


@pytest.fixture
def asker(monkeypatch, world, near, ledger):
    return Asker(monkeypatch, world, ledger)


def by_name(timeline):
    return {entry["span"]: (entry["start_us"], entry["us"]) for entry in timeline if entry["critical"]}


async def test_the_time_counts_from_when_the_person_asked_to_when_the_picture_is_on_disk(
    autojump_clock, asker
):
    asked_us = now_us()
    await trio.sleep(0.7)
    spans = [["start_peer", asked_us + 1_000, 400_000], ["join", asked_us + 401_000, 200_000]]

    def save(body):
        job, start_us = json.loads(body["summary"])["job"], now_us() + 3_000
        asker.service.on_saved({"job": job, "picture": 0, "start_us": start_us, "us": 20_000})

    asker.when["picture"] = save
    summary = await asker.only("picture", **{"~asked_us": asked_us, "~spans": spans, "~saves": True})
    handed = by_name(summary["timeline"])
    assert (handed["start_peer"], handed["join"]) == ((1_000, 400_000), (401_000, 200_000))
    assert handed["submit"] == (601_000, 99_000)
    assert summary["unaccounted_us"] == 1_000
    report = await asker.why()
    assert report["wall_us"] == summary["wall_us"] + 23_000
    assert report["unaccounted_us"] == 1_000
    written = by_name(report["timeline"])
    assert written["deliver"] == (summary["wall_us"], 3_000)
    assert written["write_file"] == (summary["wall_us"] + 3_000, 20_000)


@pytest.mark.parametrize(
    ("spans", "asked"),
    [([["join", 0, 10**12]], None), ([["step", 0, 1]], None), ([["join", 0]], None), ([], 10**12)],
)
async def test_what_was_not_before_the_request_is_refused(autojump_clock, asker, spans, asked):
    with pytest.raises(UserError):
        await asker.ask(**{"~spans": spans, "~asked_us": asked})


async def test_a_command_that_does_not_say_where_its_picture_is_holds_up_nothing_for_long(
    autojump_clock, asker
):
    began = trio.current_time()
    await asker.ask(**{"~saves": True})
    assert SAVED_WITHIN_S < trio.current_time() - began < SAVED_WITHIN_S + 1
    assert "write_file" not in by_name((await asker.why())["timeline"])


async def test_a_job_is_in_the_ledger_while_it_is_drawn(autojump_clock, asker, ledger):
    found = []
    asker.when["progress"] = lambda body: found.append([each.state for each in ledger.list_jobs(2)])
    await asker.ask()
    assert found
    assert all(each == ["running"] for each in found)
    assert [each.state for each in ledger.list_jobs(2)] == ["done"]


async def test_writing_that_a_job_began_delays_nothing(autojump_clock, asker, ledger, monkeypatch):
    async def slow_disk(function, *args, **_):
        if function == ledger.put_job:
            await trio.sleep(0.1)
        return function(*args)

    await asker.ask()
    usual = await asker.why()
    monkeypatch.setattr(trio.to_thread, "run_sync", slow_disk)
    await asker.ask()
    assert (await asker.why())["wall_us"] <= usual["wall_us"]


def test_the_pictures_of_a_batch_differ_in_seed_and_salt_only():
    first = Statement.from_untrusted(statement(seed=2**32 - 1).to_bytes())  # as the service holds it
    batch = [of_batch(first, index) for index in range(3)]
    assert [each.seed for each in batch] == [2**32 - 1, 0, 1]
    assert len({each.salt for each in batch}) == len({each.hash for each in batch}) == 3
    for each in batch:
        changed = {**each.to_value(), "seed": first.seed, "salt": first.salt}
        assert changed == first.to_value()
        assert Statement.from_untrusted(each.to_bytes()) == each
