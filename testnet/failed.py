"""What a command says where it could not do what it was asked: a sentence, an exit code; with --json an object too."""

import json
import sys

NOT_DONE, WRONG_USAGE = 1, 2


def failed(sentence: str, code: int, *, as_json: bool) -> int:
    """The exit code; the sentence is on stderr, and the last line on stdout is `{"error", "exit_code"}` with --json."""
    print(sentence, file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"error": sentence, "exit_code": code}), flush=True)
    return code
