"""`peer report`: one page about what a peer, or a run of the testnet, did."""

import json
import sys
from pathlib import Path

from peer.errors import JOB_FAILED, LOCAL_SETUP, WRONG_USAGE, UserError
from peer.report.document import BadDocument, Document, read
from peer.report.history import UNNAMED, NoHistory, history
from peer.report.page import MARK, MARK_WITHIN, page, plot, value
from peer.store.ledger import LedgerError

from .files import write_whole

DEFAULT_NAME = "nearlight-report.html"


def report(home: Path, *, last: int, data: Path | None, output: str | None, as_json: bool) -> None:
    """Writes the page to `output`, or under its default name where not only JSON is wanted; UserError.

    To a file that ends in .svg goes only the first figure: where the time went.
    """
    document = _read(data) if data else _history(home, last)
    path = None
    if output is not None or not as_json:
        path = Path(output or DEFAULT_NAME).expanduser()
        _check_free(path)
        _write(path, plot(document) if path.suffix == ".svg" else page(document))
    if as_json:
        print(json.dumps({"file": None if path is None else str(path), **value(document)}), flush=True)
    else:
        print(f"The report is {path}.")


def _history(home: Path, last: int) -> Document:
    try:
        part = history(home, last)
    except NoHistory as exc:
        raise UserError(str(exc), JOB_FAILED) from exc
    except LedgerError as exc:
        raise UserError(str(exc), LOCAL_SETUP) from exc
    title = "Latency report" if part.name == UNNAMED else f"Latency report of {part.name}"
    return Document(title=title, parts=(part,))


def _read(path: Path) -> Document:
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return read(data)
    except OSError as exc:
        raise UserError(f"The file {path} cannot be read: {exc.strerror}.", WRONG_USAGE) from exc
    except BadDocument as exc:
        raise UserError(f"The file {path} holds no data of a report. {exc}", WRONG_USAGE) from exc


def _check_free(path: Path) -> None:
    """A report may be replaced by a newer one; nothing else may."""
    try:
        with path.open("rb") as file:
            if MARK not in file.read(MARK_WITHIN):
                raise UserError(f"{path} exists already and is no report: it is left as it is.", WRONG_USAGE)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise UserError(f"The report cannot be written to {path}: {exc.strerror}.", WRONG_USAGE) from exc


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data, replace=True)
    except OSError as exc:
        raise UserError(f"The report cannot be written to {path}: {exc.strerror}.", WRONG_USAGE) from exc
