"""The `peer` command."""

import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from peer.errors import CANCELLED, JOB_FAILED, WRONG_USAGE, UserError

from .arguments import spread


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and leaves with its exit code; what went wrong is a sentence on stderr.

    With ``--json`` it is also the last line on stdout: ``{"error": sentence, "exit_code": code}``.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in sys.stdout, sys.stderr:
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a ? where the terminal's alphabet has no such letter
    try:
        code = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read our output has gone.  Python would fail once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = JOB_FAILED
    sys.exit(code)


def _run(given: list[str]) -> int:
    from typer import BadParameter

    from .app import app

    usage_error: type[Exception] = BadParameter.__mro__[1]  # of typer's own click, or of click
    try:
        code = app(args=spread(given), prog_name="peer", standalone_mode=False)
    except UserError as exc:
        return _failed(given, exc.sentence, exc.exit_code)
    except usage_error as exc:
        exc.show()  # type: ignore[attr-defined]
        return _failed(given, exc.format_message(), WRONG_USAGE, told=True)  # type: ignore[attr-defined]
    except SystemExit as exc:  # a command that has said itself what it found
        code = exc.code
    except KeyboardInterrupt:
        return _failed(given, "Cancelled.", CANCELLED)
    return code if isinstance(code, int) else 0


def _failed(given: list[str], sentence: str, code: int, *, told: bool = False) -> int:
    if not told:
        print(sentence, file=sys.stderr)
    if "--json" in given:
        print(json.dumps({"error": sentence, "exit_code": code}), flush=True)
    return code
