"""What must outlive a crash: jobs with their timelines, receipts, and peers that were met.  SQLite, one file.

Every method runs in one transaction that is on the disk when it returns (``synchronous=FULL``), and blocks: call it in
a thread.  Several processes may hold the same ledger (`peer jobs` beside a daemon).
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .disk import FILE_MODE, make_private_folder

FILE = "ledger.sqlite3"
MAX_KNOWN_PEERS = 1000  # as many as a start could hope to dial; the one seen longest ago goes
MAX_JOBS_LISTED = 10_000
_BUSY_S = 5.0  # how long one process waits for another's transaction
_PROMPT_FIELDS = ("prompt", "negative")
ROLES = frozenset({"requester", "provider"})

# Entry i brings user_version i to i + 1.  An entry that was released is never changed.
_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        job TEXT PRIMARY KEY, created_us INTEGER NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL,
        outcome TEXT, image TEXT, timeline TEXT NOT NULL, candidates TEXT NOT NULL, why TEXT NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_time ON jobs (created_us);
    CREATE TABLE receipts (
        attempt BLOB NOT NULL, role TEXT NOT NULL, job TEXT, peer TEXT NOT NULL, received_us INTEGER NOT NULL,
        envelope BLOB NOT NULL, offer BLOB, settled BLOB,
        PRIMARY KEY (attempt, role)
    ) STRICT;
    CREATE INDEX receipts_by_job ON receipts (job);
    CREATE TABLE peers (peer TEXT PRIMARY KEY, addresses TEXT NOT NULL, last_seen_us INTEGER NOT NULL) STRICT;
    """,
    """
    CREATE TABLE loads (
        device TEXT NOT NULL, model BLOB NOT NULL, us INTEGER NOT NULL, PRIMARY KEY (device, model)
    ) STRICT;
    CREATE TABLE speeds (
        device TEXT NOT NULL, model BLOB NOT NULL, precision TEXT NOT NULL, pixels INTEGER NOT NULL,
        step_us INTEGER NOT NULL, fixed_us INTEGER NOT NULL, PRIMARY KEY (device, model, precision, pixels)
    ) STRICT;
    """,
    "ALTER TABLE speeds ADD COLUMN count INTEGER NOT NULL DEFAULT 1",
)


class LedgerError(Exception):
    """The ledger FILE cannot be used: what is wrong, and what helps."""


class DifferentReceipt(Exception):
    """A different receipt for this attempt is in the ledger already: both are proof against their signer."""


class AmbiguousJob(Exception):
    """Several jobs begin with these characters: give more of them."""


@dataclass(frozen=True)
class JobRecord:
    """A job as `peer jobs` and `peer why` show it.  `request`, `timeline`, `candidates` and `why` are plain JSON."""

    job: str  # hex
    created_us: int  # wall clock, Unix microseconds
    state: str
    request: dict[str, Any]
    outcome: str | None = None
    image: str | None = None  # path of the picture
    timeline: tuple[dict[str, Any], ...] = ()
    candidates: tuple[dict[str, Any], ...] = ()
    why: Any = None


@dataclass(frozen=True)
class ReceiptRecord:
    """A receipt with what it answers.  `envelope`, `offer` and `settled` are signed bytes exactly as they were sent."""

    attempt: bytes
    role: str  # ours: requester or provider
    peer: str  # the other one's peer id
    received_us: int  # wall clock, Unix microseconds
    envelope: bytes
    job: str | None = None
    offer: bytes | None = None
    settled: bytes | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"a role is one of {', '.join(sorted(ROLES))}, not {self.role!r}")
        if self.role == "provider" and self.offer is not None:
            raise ValueError("a provider keeps no offer: the prompt is in it")


@dataclass(frozen=True)
class KnownPeer:
    peer: str
    addresses: tuple[str, ...]
    last_seen_us: int  # wall clock, Unix microseconds


@dataclass(frozen=True)
class OwnSpeed:
    """How fast one of this peer's own devices was: a render of `pixels`, one step and the rest."""

    model: bytes
    precision: str
    pixels: int
    step_us: int
    fixed_us: int
    count: int  # of renders in it


class Ledger:
    def __init__(self, path: Path) -> None:
        """Opens or makes the ledger, and brings an older one up to date; LedgerError."""
        self._path = path
        self._lock = threading.Lock()
        self._writes = 0
        with self._sentences():
            make_private_folder(path.parent)
            path.touch(FILE_MODE)  # SQLite gives its side files the mode of this one
            self._database = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._sentences():
                self._prepare()
        except LedgerError:
            self._database.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def statistics(self) -> dict[str, int]:
        return {"writes": self._writes}

    # jobs

    def put_job(self, record: JobRecord, *, keep_prompt: bool = False) -> None:
        """Adds or replaces a job.  Its request is kept without prompt and negative prompt, unless `keep_prompt`."""
        request = record.request
        if not keep_prompt:
            request = {key: value for key, value in request.items() if key not in _PROMPT_FIELDS}
        row = (
            record.job,
            record.created_us,
            record.state,
            _json(request),
            record.outcome,
            record.image,
            _json(record.timeline),
            _json(record.candidates),
            _json(record.why),
        )
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def get_job(self, job: str) -> JobRecord | None:
        rows = self._rows("SELECT * FROM jobs WHERE job = ?", (job,))
        return _job(rows[0]) if rows else None

    def list_jobs(self, limit: int) -> tuple[JobRecord, ...]:
        """The newest jobs, newest first."""
        rows = self._rows(
            "SELECT * FROM jobs ORDER BY created_us DESC, job LIMIT ?", (min(limit, MAX_JOBS_LISTED),)
        )
        return tuple(_job(row) for row in rows)

    def find_job(self, prefix: str) -> JobRecord | None:
        """The job whose id begins with `prefix`; None if there is none, AmbiguousJob if there are several."""
        rows = self._rows("SELECT * FROM jobs WHERE substr(job, 1, ?) = ? LIMIT 2", (len(prefix), prefix))
        if len(rows) > 1:
            raise AmbiguousJob(f"Several jobs begin with {prefix!r}: give more of the id.")
        return _job(rows[0]) if rows else None

    # receipts

    def put_receipt(self, record: ReceiptRecord) -> None:
        """Adds a receipt, or what was missing beside one that is there: its job, offer or SETTLED.

        DifferentReceipt if another envelope for this attempt and role is there; that one stays.
        """
        with self._transaction() as database:
            row = database.execute(
                "SELECT envelope FROM receipts WHERE attempt = ? AND role = ?", (record.attempt, record.role)
            ).fetchone()
            if row is not None and row[0] != record.envelope:
                raise DifferentReceipt(
                    f"A different receipt for attempt {record.attempt.hex()} is in the ledger already: "
                    "both are proof against their signer."
                )
            database.execute(
                "INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "job = coalesce(job, excluded.job), offer = coalesce(offer, excluded.offer), "
                "settled = coalesce(settled, excluded.settled)",
                (
                    record.attempt,
                    record.role,
                    record.job,
                    record.peer,
                    record.received_us,
                    record.envelope,
                    record.offer,
                    record.settled,
                ),
            )

    def get_receipt(self, attempt: bytes, role: str | None = None) -> ReceiptRecord | None:
        """The receipt of an attempt; of a peer's attempt with itself, the requester's copy unless `role` says."""
        rows = self._rows(
            "SELECT * FROM receipts WHERE attempt = ? AND role = coalesce(?, role) ORDER BY role DESC",
            (attempt, role),
        )
        return _receipt(rows[0]) if rows else None

    def receipts(self, job: str) -> tuple[ReceiptRecord, ...]:
        """The receipts of a job, in the order in which they came."""
        rows = self._rows("SELECT * FROM receipts WHERE job = ? ORDER BY received_us, attempt", (job,))
        return tuple(_receipt(row) for row in rows)

    # peers

    def put_peers(self, known: Iterable[KnownPeer]) -> None:
        """Adds or replaces known peers; beyond MAX_KNOWN_PEERS those seen longest ago are forgotten."""
        with self._transaction() as database:
            database.executemany(
                "INSERT OR REPLACE INTO peers VALUES (?, ?, ?)",
                [(each.peer, _json(each.addresses), each.last_seen_us) for each in known],
            )
            database.execute(
                "DELETE FROM peers WHERE peer IN (SELECT peer FROM peers ORDER BY last_seen_us DESC LIMIT -1 OFFSET ?)",
                (MAX_KNOWN_PEERS,),
            )

    def known_peers(self) -> tuple[KnownPeer, ...]:
        """Last seen first."""
        rows = self._rows("SELECT * FROM peers ORDER BY last_seen_us DESC, peer", ())
        return tuple(KnownPeer(peer, tuple(json.loads(text)), seen_us) for peer, text, seen_us in rows)

    # this peer's own devices

    def put_speeds(self, device: str, loads: dict[bytes, int], speeds: Iterable[OwnSpeed]) -> None:
        """Replaces what was measured on `device`: us of loading each model, and its speeds."""
        with self._transaction() as database:
            database.execute("DELETE FROM loads WHERE device = ?", (device,))
            database.execute("DELETE FROM speeds WHERE device = ?", (device,))
            database.executemany(
                "INSERT INTO loads VALUES (?, ?, ?)", [(device, model, us) for model, us in loads.items()]
            )
            database.executemany(
                "INSERT OR REPLACE INTO speeds VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(device, *(getattr(speed, each.name) for each in fields(speed))) for speed in speeds],
            )

    def speeds(self, device: str) -> tuple[dict[bytes, int], tuple[OwnSpeed, ...]]:
        """(us of loading each model, speeds) as last put for `device`."""
        loads = self._rows("SELECT model, us FROM loads WHERE device = ?", (device,))
        speeds = self._rows(
            "SELECT model, precision, pixels, step_us, fixed_us, count FROM speeds WHERE device = ?",
            (device,),
        )
        return dict(loads), tuple(OwnSpeed(*row) for row in speeds)

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("BEGIN IMMEDIATE")  # two processes may start on one new ledger
        try:
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise LedgerError(
                    f"The ledger {self._path} was written by a newer Nearlight (version {version}, this one knows "
                    f"{len(_MIGRATIONS)}): use that one, or another home."
                )
            for migration in _MIGRATIONS[version:]:
                for statement in migration.split(";"):
                    self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
            self._database.execute("COMMIT")
        except BaseException:
            self._database.rollback()
            raise

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._sentences():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._database.rollback()
                raise
            self._writes += 1

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        with self._lock, self._sentences():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """SQLite's and the system's complaints about the file become LedgerErrors."""
        try:
            yield
        except sqlite3.OperationalError as exc:
            raise LedgerError(
                f"The ledger {self._path} cannot be used: {exc}. It must be a file that this user may write, "
                "on a disk that is not full."
            ) from exc
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # our own bug
        except sqlite3.DatabaseError as exc:
            raise LedgerError(
                f"The ledger {self._path} is damaged: {exc}. Put it back from a copy, or move it away, with the "
                f"files {self._path.name}-wal and {self._path.name}-shm if they are there, and a new one is made."
            ) from exc
        except OSError as exc:
            raise LedgerError(f"The ledger {self._path} cannot be used: {exc.strerror}.") from exc


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _job(row: Any) -> JobRecord:
    job, created_us, state, request, outcome, image, timeline, candidates, why = row
    return JobRecord(
        job=job,
        created_us=created_us,
        state=state,
        request=json.loads(request),
        outcome=outcome,
        image=image,
        timeline=tuple(json.loads(timeline)),
        candidates=tuple(json.loads(candidates)),
        why=json.loads(why),
    )


def _receipt(row: Any) -> ReceiptRecord:
    attempt, role, job, peer, received_us, envelope, offer, settled = row
    return ReceiptRecord(attempt, role, peer, received_us, envelope, job, offer, settled)
