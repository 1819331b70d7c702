"""`peer render`: asks, shows, saves each picture as it comes, and says where its time went."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peer.errors import JOB_FAILED, UserError
from protocol.policy.credits import reckoning
from protocol.wire.fields import plain

from .call import call
from .files import Destination
from .live import Live
from .show import adapters_of, print_json, print_timeline, say, sentence, who
from .show import time as shown_time

if TYPE_CHECKING:
    from peer.config import PeerConfig


def render(
    config: "PeerConfig",
    body: dict[str, Any],
    into: Destination,
    *,
    as_json: bool,
    refine: bool = False,
    settings: Sequence[str] = (),
) -> None:
    """UserError unless every picture was drawn, checked and saved; those that were are kept.

    `refine`: what was given up to be in time is drawn afterwards, from the same seed.  `settings`: the flags given that a
    running peer does not heed.
    """
    run = _drawn(config, body, into, as_json=as_json, settings=settings)
    run.finish()
    if not (refine and run.gave_up):
        return
    first = run.summaries[0]
    try:
        _drawn(config, _as_asked(body, first["seed"]), into.refined, as_json=as_json).finish()
    except UserError as exc:
        raise UserError(
            f"{exc.sentence} The picture drawn in time is {first['image']}.", exc.exit_code
        ) from exc


def _drawn(
    config: "PeerConfig",
    body: dict[str, Any],
    into: Destination,
    *,
    as_json: bool,
    settings: Sequence[str] = (),
) -> "_Run":
    """One job, to its end."""
    body = {**body, "~asked_us": _now_us(), "~saves": True}
    with Live(body["count"]) as live:
        run = _Run(live, into, as_json)
        try:
            call(config, "render", body, run.on_event, settings=settings)
        except UserError as exc:
            if not run.summaries:
                raise
            run.print_object()
            kept = "1 picture is" if len(run.summaries) == 1 else f"{len(run.summaries)} pictures are"
            raise UserError(f"{exc.sentence} {kept} saved in {into.folder}.", exc.exit_code) from exc
    return run


def _as_asked(body: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same picture, whenever it is there."""
    wishes = {**body["wishes"], "~within_us": None}
    return {**body, "seed": seed, "wishes": wishes}


class _Run:
    """One job, as its events come in."""

    def __init__(self, live: Live, into: Destination, as_json: bool) -> None:
        self.summaries: list[dict[str, Any]] = []
        self._failures: list[str] = []
        self._live = live
        self._into = into
        self._as_json = as_json
        self._job = ""
        self._batch: dict[str, Any] = {}

    def on_event(self, kind: str, event: dict[str, Any]) -> dict[str, Any] | None:
        """Of a picture: when it was saved."""
        match kind:
            case "job":
                self._job = event["job"]
            case "batch":
                self._live.on_batch(event["left_us"])
            case "finished":
                self._batch = event.get("batch") or {}
            case "attempt":
                who_draws = who(event["name"], event["peer"])
                self._live.on_attempt(event["picture"], event["number"], who_draws, event.get("predicted_us"))
            case "told":
                self._live.say(self._numbered(event["picture"], event["sentence"]))
            case "progress":
                self._live.on_progress(event["picture"], event)
            case "picture":
                self._live.on_finished(event["picture"])
                return self._save(event)
            case "failed":
                self._live.on_finished(event["picture"])
                self._failures.append(sentence(event["sentence"]))
                if self._into.count > 1:
                    self._live.say(self._numbered(event["picture"], event["sentence"]))
        return None

    @property
    def gave_up(self) -> bool:
        """The one picture is there, with less than was asked for."""
        return any((summary.get("rung") or {}).get("given_up") for summary in self.summaries)

    def finish(self) -> None:
        """The last words, when all events are there."""
        if self.summaries and self._as_json:
            self.print_object()
        elif self.summaries and self._into.count == 1:
            _print_picture(self.summaries[0])
        elif self.summaries:
            _print_batch(len(self.summaries), self._batch)
        if self._failures or not self.summaries:
            why = self._failures[-1] if self._failures else "The job ended without a picture."
            if self._into.count > 1:
                lost = self._into.count - len(self.summaries)
                are = "is" if lost == 1 else "are"
                why = f"{lost} of {self._into.count} pictures {are} missing. The last one: {why}"
            raise UserError(why, JOB_FAILED)

    def print_object(self) -> None:
        """With --json: of the pictures that are on disk; there is one."""
        if self._as_json:
            first = self.summaries[0]
            print_json(
                first
                if self._into.count == 1
                else {**first, "pictures": self.summaries, "batch": self._batch}
            )

    def _save(self, event: dict[str, Any]) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(event["summary"])
        data: bytes = event["file"]
        start_us = _now_us()
        saved = {"job": self._job, "picture": event["picture"], "start_us": start_us}
        try:
            path = self._into.save(data, event["picture"] + 1, seed=event["seed"], job=self._job)
        except OSError as exc:
            self._failures.append(
                f"The picture was drawn but cannot be saved in {self._into.folder}: {exc.strerror}."
            )
            return {**saved, "us": None}
        us = _now_us() - start_us
        _add_write(summary, start_us, us)
        summary["image"] = str(path)
        summary["sha256"] = hashlib.sha256(data).hexdigest()
        self.summaries.append(summary)
        if self._into.count > 1 and not self._as_json:
            took = shown_time(summary.get("wall_us"))
            print(f"{path}  seed {event['seed']}, {_provider(summary)}, {took}", flush=True)
            for note in _notes(summary):
                say(note, "  ")
        return {**saved, "us": us}

    def _numbered(self, picture: int | None, words: str) -> str:
        return words if self._into.count == 1 or picture is None else f"Picture {picture + 1}: {words}"


def _now_us() -> int:
    """CLOCK_MONOTONIC, which the peer's process reads too."""
    return time.monotonic_ns() // 1000


def _add_write(summary: dict[str, Any], start_us: int, us: int) -> None:
    """The peer's account ends where it hands the picture over: what follows until it is on disk is measured here."""
    wall_us, timeline = summary.get("wall_us"), summary.get("timeline")
    if not isinstance(wall_us, int) or not isinstance(timeline, list):
        return
    asked_us: int = summary["asked_us"]
    handed_us = asked_us + wall_us
    for name, began_us, ended_us in (
        ("deliver", handed_us, start_us),
        ("write_file", start_us, start_us + us),
    ):
        timeline.append(
            {
                "span": name,
                "parent": None,
                "attempt": None,
                "observer": summary.get("requester") or "",
                "start_us": began_us - asked_us,
                "us": ended_us - began_us,
                "critical": True,
            }
        )
    summary["wall_us"] = start_us + us - asked_us


def _notes(summary: dict[str, Any]) -> list[str]:
    """What was given up, what it cost where somebody asks a price or the person named one, and whether it was late."""
    rung, wished, wall_us = summary.get("rung"), summary.get("wished") or {}, summary.get("wall_us")
    notes = [sentence(rung["sentence"])] if rung else []
    if isinstance(wall_us, int):
        notes += reckoning(
            summary.get("price_millionths") or 0,
            wall_us,
            summary.get("value_of_time_millionths") or 0,
            valued="value_of_time_millionths" in wished,
            wanted_us=wished.get("deadline_us") or wished.get("within_us"),
            before_us=summary.get("before_us") or 0,
        )
    return notes


def _provider(summary: dict[str, Any]) -> str:
    if summary.get("provider") == summary.get("requester"):
        return "drawn by this device"
    return f"drawn by {who(summary.get('provider_name'), summary.get('provider'))}"


def _print_batch(saved: int, batch: dict[str, Any]) -> None:
    drew = [f"{each['pictures']} by {who(each['name'], each['peer'])}" for each in batch.get("drew") or ()]
    shares = f": {', '.join(drew)}" if drew else ""
    say(f"{saved} picture{'' if saved == 1 else 's'} in {shown_time(batch.get('wall_us'))}{shares}.")
    say("Each is the same drawn alone with its seed: --seed.")


def _print_picture(summary: dict[str, Any]) -> None:
    print(summary["image"])
    size = f"{summary.get('width')}x{summary.get('height')}{adapters_of(summary)}"
    took = shown_time(summary.get("wall_us"))
    print(f"{size}, seed {summary.get('seed')}, {_provider(summary)} in {took}")
    for note in _notes(summary):
        say(note)
    print_timeline(summary)
    print("checked: " + (", ".join(plain(str(each)) for each in summary.get("checked") or ()) or "nothing"))
    sys.stdout.flush()
