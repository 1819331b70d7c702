import datetime
import json
import stat
import subprocess
import sys
import threading
import time

import pytest

from peer.journal import Journal


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "home" / "journal.jsonl")
    yield journal
    journal.close()


def test_an_entry_says_when_and_what(journal):
    before_us = time.monotonic_ns() // 1000
    journal.write("peer_known", peer="12D3KooW", rtt_us=812, addresses=["/ip4/10.0.0.1/tcp/1"])
    (entry,) = Journal.read(journal.path)
    assert list(entry) == ["at", "t_us", "event", "peer", "rtt_us", "addresses"]
    assert before_us <= entry["t_us"] <= time.monotonic_ns() // 1000
    assert datetime.datetime.fromisoformat(entry["at"]).tzinfo is datetime.UTC
    assert (entry["event"], entry["rtt_us"]) == ("peer_known", 812)
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


def test_entries_are_in_the_file_when_write_returns(tmp_path):
    code = (
        "import os, pathlib, sys; from peer.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "for number in range(50): journal.write('count', number=number)\n"
        "os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "journal.jsonl"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    assert [entry["number"] for entry in Journal.read(path)] == list(range(50))


def test_a_restart_appends(tmp_path):
    for number in range(3):
        journal = Journal(tmp_path / "journal.jsonl")
        journal.write("start", number=number)
        journal.close()
    assert [entry["number"] for entry in Journal.read(tmp_path / "journal.jsonl")] == [0, 1, 2]


def test_a_torn_line_spoils_no_other(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"at":"x","t_us":1,"event":"one"}\n{"at":"x","t_us":2,"eve')
    assert [entry["event"] for entry in Journal.read(path)] == ["one"]
    journal = Journal(path)
    journal.write("two")
    journal.close()
    assert [entry["event"] for entry in Journal.read(path)] == ["one", "unreadable", "two"]


@pytest.mark.parametrize("line", [b"[]", b"7", b'{"a":1}', b"\xff\xff", b"[" * 100_000, b""])
def test_any_line_can_be_read(tmp_path, line):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line + b"\n")
    assert [entry["event"] for entry in Journal.read(path)] == ["unreadable"]


def test_a_full_file_is_put_aside_and_one_old_one_kept(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", at_most_bytes=1000)
    for number in range(100):
        journal.write("count", number=number)
    journal.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.1.jsonl", "journal.jsonl"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    numbers = [entry["number"] for entry in Journal.read(journal.path)]
    assert numbers == list(range(numbers[0], 100))
    assert journal.statistics()["rotations"] >= 2


def test_no_prompt_gets_in_at_any_depth(journal):
    for fields in (
        {"prompt": "canary"},
        {"job": {"negative": "canary"}},
        {"jobs": [{"request": {"prompt": "canary"}}]},
    ):
        with pytest.raises(ValueError, match="a journal holds no"):
            journal.write("job", **fields)
    assert b"canary" not in journal.path.read_bytes()


@pytest.mark.parametrize("field", [b"bytes", {1, 2}, float("nan"), object()])
def test_only_plain_json_gets_in(journal, field):
    with pytest.raises((TypeError, ValueError)):
        journal.write("odd", field=field)
    assert journal.path.read_bytes() == b""


def test_the_clock_is_the_journals(journal):
    with pytest.raises(ValueError, match="the journal itself sets t_us"):
        journal.write("odd", t_us=1)


def test_escape_sequences_and_line_ends_stay_inside_their_entry(journal):
    journal.write("name", name="\x1b[31m\n\u2028\u202e")
    (line,) = journal.path.read_bytes().splitlines()
    assert line.isascii()
    assert b"\x1b" not in line
    assert json.loads(line)["name"] == "\x1b[31m\n\u2028\u202e"


def test_threads_do_not_mix_their_lines(journal):
    def work(thread):
        for number in range(100):
            journal.write("count", thread=thread, number=number)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = list(Journal.read(journal.path))
    assert len(entries) == 400
    assert [entry["number"] for entry in entries if entry["thread"] == 2] == list(range(100))
    assert [entry["t_us"] for entry in entries] == sorted(entry["t_us"] for entry in entries)


def test_a_missing_journal_has_no_entries(tmp_path):
    assert list(Journal.read(tmp_path / "journal.jsonl")) == []
