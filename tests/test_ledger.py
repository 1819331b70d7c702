import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from peer.store import ledger as ledger_module
from peer.store.ledger import (
    AmbiguousJob,
    DifferentReceipt,
    JobRecord,
    KnownPeer,
    Ledger,
    LedgerError,
    ReceiptRecord,
)
from peer.store.speeds import keep, remember
from protocol.policy.speeds import Measured, SpeedBook

JOB = JobRecord(
    job="ab12cd34",
    created_us=1_800_000_000_000_000,
    state="done",
    request={"prompt": "a canary", "negative": "canaries", "steps": 20},
    outcome="done",
    image="/tmp/picture.png",
    timeline=({"span": "plan", "us": 12, "critical": True},),
    candidates=({"peer": "12D3KooW", "rtt_us": 800, "predicted_us": None},),
    why={"chosen": "nearest"},
)
RECEIPT = ReceiptRecord(
    attempt=b"\x01" * 16, role="requester", peer="12D3KooW", received_us=5, envelope=b"signed", job=JOB.job
)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "home" / "ledger.sqlite3")
    yield ledger
    ledger.close()


def test_a_job_is_kept_without_its_prompt(ledger, tmp_path):
    ledger.put_job(JOB)
    assert ledger.get_job(JOB.job) == replace(JOB, request={"steps": 20})
    ledger.close()
    assert all(b"canar" not in path.read_bytes() for path in (tmp_path / "home").iterdir())


def test_a_job_is_kept_with_its_prompt_when_asked(ledger):
    ledger.put_job(JOB, keep_prompt=True)
    assert ledger.get_job(JOB.job) == JOB


def test_a_job_is_replaced_by_its_later_state(ledger):
    ledger.put_job(replace(JOB, state="running", outcome=None, image=None, timeline=()))
    ledger.put_job(JOB, keep_prompt=True)
    assert ledger.list_jobs(10) == (JOB,)


def test_the_newest_jobs_come_first(ledger):
    for number in range(5):
        ledger.put_job(replace(JOB, job=f"{number}", created_us=number, request={}))
    assert [job.job for job in ledger.list_jobs(3)] == ["4", "3", "2"]


def test_a_job_is_found_by_the_start_of_its_id(ledger):
    for job in ("ab12", "ab34", "cd%_"):
        ledger.put_job(replace(JOB, job=job))
    assert ledger.find_job("ab1").job == "ab12"
    assert ledger.find_job("ab12").job == "ab12"
    assert ledger.find_job("cd%").job == "cd%_"
    assert ledger.find_job("%") is None
    assert ledger.get_job("ab1") is None
    with pytest.raises(AmbiguousJob, match="begin with 'ab'"):
        ledger.find_job("ab")


def test_a_receipt_is_kept_byte_for_byte(ledger):
    ledger.put_receipt(RECEIPT)
    ledger.put_receipt(RECEIPT)
    assert ledger.get_receipt(RECEIPT.attempt) == RECEIPT
    assert ledger.receipts(JOB.job) == (RECEIPT,)
    assert ledger.get_receipt(b"\x02" * 16) is None
    assert ledger.receipts("other") == ()


def test_what_comes_later_joins_its_receipt_and_replaces_nothing(ledger):
    ledger.put_receipt(replace(RECEIPT, offer=b"offer"))
    ledger.put_receipt(replace(RECEIPT, job=None, settled=b"settled"))
    ledger.put_receipt(replace(RECEIPT, offer=b"another", settled=b"another"))
    assert ledger.get_receipt(RECEIPT.attempt) == replace(RECEIPT, offer=b"offer", settled=b"settled")


def test_a_second_different_receipt_of_an_attempt_is_told_and_the_first_stays(ledger):
    ledger.put_receipt(RECEIPT)
    with pytest.raises(DifferentReceipt, match="attempt 0101"):
        ledger.put_receipt(replace(RECEIPT, envelope=b"signed otherwise"))
    assert ledger.get_receipt(RECEIPT.attempt) == RECEIPT
    ledger.put_receipt(replace(RECEIPT, attempt=b"\x02" * 16))


def test_a_peer_that_renders_for_itself_keeps_both_sides(ledger):
    provided = replace(RECEIPT, role="provider", job=None)
    ledger.put_receipt(provided)
    ledger.put_receipt(RECEIPT)
    assert ledger.get_receipt(RECEIPT.attempt) == RECEIPT
    assert ledger.get_receipt(RECEIPT.attempt, "provider") == provided


def test_a_provider_keeps_no_offer():
    with pytest.raises(ValueError, match="the prompt is in it"):
        replace(RECEIPT, role="provider", offer=b"offer")
    with pytest.raises(ValueError, match="not 'owner'"):
        replace(RECEIPT, role="owner")


def test_known_peers_are_bounded_and_the_oldest_goes(ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "MAX_KNOWN_PEERS", 3)
    ledger.put_peers(
        KnownPeer(f"peer{number}", (f"/ip4/10.0.0.{number}/tcp/1",), number) for number in range(5)
    )
    ledger.put_peers([KnownPeer("peer2", ("/ip4/10.0.0.9/tcp/1",), 9)])
    assert [known.peer for known in ledger.known_peers()] == ["peer2", "peer4", "peer3"]
    assert ledger.known_peers()[0].addresses == ("/ip4/10.0.0.9/tcp/1",)


def test_two_processes_may_hold_one_ledger(ledger):
    ledger.put_receipt(RECEIPT)
    other = Ledger(ledger._path)
    assert other.get_receipt(RECEIPT.attempt) == RECEIPT
    other.put_job(JOB, keep_prompt=True)
    other.close()
    assert ledger.get_job(JOB.job) == JOB


def test_threads_share_one_ledger(ledger):
    def work(thread):
        for number in range(10):
            ledger.put_receipt(replace(RECEIPT, attempt=bytes([thread, number] * 8)))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.receipts(JOB.job)) == 40
    assert ledger.statistics() == {"writes": 40}


def test_the_files_are_for_their_owner_and_every_commit_is_synced(ledger):
    ledger.put_job(JOB)
    assert {stat.S_IMODE(path.stat().st_mode) for path in ledger._path.parent.iterdir()} == {0o600}
    assert ledger._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert ledger._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


WRITER = """
import os, pathlib, sys
from peer.store.ledger import Ledger, ReceiptRecord
ledger = Ledger(pathlib.Path(sys.argv[1]))
for number in range(1_000_000):
    attempt = number.to_bytes(16, "big")
    ledger.put_receipt(ReceiptRecord(attempt, "requester", "peer", number, attempt * 40, "job"))
    os.write(1, attempt)
"""


@pytest.mark.parametrize("after", [1, 37, 150])
def test_a_killed_writer_loses_no_receipt_it_acknowledged(tmp_path, after):
    path = tmp_path / "ledger.sqlite3"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    with writer:
        acknowledged = writer.stdout.read(16 * after)
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL
    ledger = Ledger(path)
    for number in range(len(acknowledged) // 16):
        attempt = number.to_bytes(16, "big")
        assert ledger.get_receipt(attempt).envelope == attempt * 40
    ledger.put_receipt(RECEIPT)
    ledger.close()


def test_a_file_that_is_no_ledger_is_a_sentence(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"this is no database " * 100)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite3 is damaged: .*move it away"):
        Ledger(path)
    assert path.read_bytes() == b"this is no database " * 100


def test_a_damaged_page_is_a_sentence(ledger):
    for number in range(200):
        ledger.put_receipt(replace(RECEIPT, attempt=number.to_bytes(16, "big"), envelope=b"x" * 900))
    ledger.close()
    data = bytearray(ledger._path.read_bytes())
    data[8192 : len(data)] = b"\xa5" * (len(data) - 8192)
    ledger._path.write_bytes(data)
    damaged = Ledger(ledger._path)
    with pytest.raises(LedgerError, match="is damaged"):
        damaged.receipts(JOB.job)
    damaged.close()


def test_a_ledger_from_the_future_is_left_alone(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    Ledger(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LedgerError, match=r"newer Nearlight \(version 99"):
        Ledger(path)


def test_a_ledger_where_a_folder_is_is_a_sentence(tmp_path):
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path)


def test_what_was_measured_of_a_device_is_there_after_a_restart_and_for_that_device_only(tmp_path):
    book, model, path = SpeedBook(), b"m" * 32, tmp_path / "ledger.sqlite3"
    book.on_load("me", model, 3_000_000)
    for pixels, step_us in ((64 * 64, 10_000), (128 * 128, 30_000), (128 * 128, 34_000)):
        book.on_speed("me", model, "fp32", Measured(pixels, step_us, 5_000))
    book.on_load("another", model, 1)
    ledger = Ledger(path)
    keep(ledger, "cpu", SpeedBook(), "me")  # nothing was measured: nothing is kept
    keep(ledger, "cpu", book, "me")
    keep(ledger, "cpu", book, "me")
    ledger.close()
    ledger = Ledger(path)
    again, elsewhere = SpeedBook(), SpeedBook()
    remember(ledger, "cpu", again, "me")
    remember(ledger, "cuda:0", elsewhere, "me")
    ledger.close()
    assert again.of("me") == book.of("me")
    assert again.of("another") is elsewhere.of("me") is None


def test_an_older_ledger_is_brought_up_to_date_with_what_is_in_it(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path)
    ledger.put_job(JOB)
    ledger.close()
    database = sqlite3.connect(path)
    database.executescript("DROP TABLE loads; DROP TABLE speeds; PRAGMA user_version = 1")
    database.close()
    ledger = Ledger(path)
    assert ledger.get_job(JOB.job) is not None
    assert ledger.speeds("cpu") == ({}, ())
    ledger.close()
