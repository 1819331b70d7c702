"""What the ledger says of past jobs: for the running peer and, where none runs, for the command itself."""

import json
from typing import Any

from protocol.wire.canonical import Value

from .errors import WRONG_USAGE, UserError
from .store.ledger import AmbiguousJob, Ledger


def jobs(ledger: Ledger, limit: int, running: frozenset[str] = frozenset()) -> list[Value]:
    """The latest jobs, newest first.  One that the ledger calls running, and that is not, was interrupted."""
    return [
        {
            "job": record.job,
            "created_us": record.created_us,
            "state": "interrupted"
            if record.state == "running" and record.job not in running
            else record.state,
            "model": record.request.get("model"),
            "provider": record.request.get("provider"),
            "wall_us": _wall_us(record.why) if isinstance(record.why, dict) else None,
            "pictures": record.request.get("count", 1),
            "sentence": record.outcome,
        }
        for record in ledger.list_jobs(limit)
    ]


def _wall_us(report: dict[str, Any]) -> int | None:
    """Until the picture was there that was there last, which of a batch may have waited for its turn."""
    wall_us: int | None = report.get("wall_us")
    return None if wall_us is None else report.get("before_us", 0) + wall_us


def why(ledger: Ledger, prefix: str | None) -> str:
    """The report of the job whose id begins with `prefix`, or of the last one, as JSON; UserError."""
    if prefix is None:
        latest = ledger.list_jobs(1)
        record = latest[0] if latest else None
    else:
        try:
            record = ledger.find_job(prefix)
        except AmbiguousJob as exc:
            raise UserError(str(exc), WRONG_USAGE) from exc
    if record is None:
        raise UserError("There is no such job: `peer jobs` lists them.", WRONG_USAGE)
    report: dict[str, Any] = (
        record.why if isinstance(record.why, dict) else {"job": record.job, "sentences": []}
    )
    return json.dumps(report | {"state": record.state, "asked": record.request})
