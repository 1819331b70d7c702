"""`peer verify`: whether a picture is the one that its receipt tells of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer.errors import JOB_FAILED, WRONG_USAGE, UserError
from protocol.policy.credits import about_credits, shown_credits
from protocol.wire.fields import plain

from .show import print_json, say, sentence

if TYPE_CHECKING:
    from peer.picture import VerifyReport
    from protocol.wire.receipt import Receipt

_VERDICTS = {
    "unchanged": "unchanged: byte for byte the file that was signed",
    "re-saved": "re-saved: another file, but the pixels are those that were signed",
    "changed": "changed: the pixels are not those that were signed",
    "bad receipt": "bad receipt: what it carries proves nothing",
    "no receipt": "no receipt: nothing says where it comes from; a program that saved it anew may have dropped it",
}


def verify(path: Path, *, as_json: bool) -> None:
    """UserError unless the pixels are those that a provider signed."""
    from peer.picture import UnreadablePicture, verify_file

    try:
        report = verify_file(path)
    except UnreadablePicture as exc:
        raise UserError(str(exc), WRONG_USAGE) from exc
    if as_json:
        print_json(_to_json(report))
    else:
        say(f"{path}: {_VERDICTS[report.verdict]}")
        for check in report.checked:
            say(f"{'ok ' if check.ok else 'NOT'}  {sentence(check.sentence)}", "  ")
        if report.provider is not None:
            say(f"drawn by {report.provider}", "  ")
            say("for itself" if report.requester == report.provider else f"for {report.requester}", "  ")
        if report.statement is not None:
            say(f"prompt: {plain(report.statement.prompt, 400)}", "  ")
        if report.receipt is not None and report.receipt.price_millionths:
            say(_price(report.receipt), "  ")
    if not report.ok:
        raise SystemExit(JOB_FAILED)  # the verdict was the sentence


def _price(receipt: "Receipt") -> str:
    latency = receipt.latency_millionths
    time = (
        "" if latency is None else f", and the time it took was worth {about_credits(latency)} to who asked"
    )
    return f"price: {shown_credits(receipt.price_millionths)}{time}; no credits are moved"


def _to_json(report: "VerifyReport") -> dict[str, Any]:
    checked = [{"what": check.what, "ok": check.ok, "sentence": check.sentence} for check in report.checked]
    return {
        "image": str(report.path),
        "ok": report.ok,
        "verdict": report.verdict,
        "checked": checked,
        "network": report.network,
        "provider": report.provider,
        "requester": report.requester,
        "prompt": None if report.statement is None else report.statement.prompt,
        "price_millionths": None if report.receipt is None else report.receipt.price_millionths,
        "latency_millionths": None if report.receipt is None else report.receipt.latency_millionths,
    }
