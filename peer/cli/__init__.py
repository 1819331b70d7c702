"""The `peer` command."""

import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from peer.errors import CANCELLED, UserError

from .arguments import spread


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and leaves with its exit code; what went wrong is a sentence on stderr.

    With ``--json`` it is also the last line on stdout: ``{"error": sentence, "exit_code": code}``.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    from .app import app

    try:
        app(args=spread(given), prog_name="peer")
    except UserError as exc:
        code = exc.exit_code
        if "--json" in given:
            print(json.dumps({"error": exc.sentence, "exit_code": code}), flush=True)
        print(exc.sentence, file=sys.stderr)
    except KeyboardInterrupt:
        code = CANCELLED
        print("Cancelled.", file=sys.stderr)
    except BrokenPipeError:
        # Who read our output has gone.  Python would fail once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    else:
        code = 0
    sys.exit(code)
