"""What the command can ask of a running peer: one schema, whether it comes over the control socket or from within.

Requests and events are [kind, map] of canonical values.  Kinds: status, swarm, render, quote, jobs, cancel, why.
"""

import trio

from protocol.policy.prediction import Candidate
from protocol.wire.canonical import Value
from protocol.wire.fields import Fields

from . import __version__, history, quoting
from .clock import now_us
from .drawing import Drawing, Emit
from .errors import WRONG_USAGE, UserError
from .node import Node
from .order import MAX_COUNT, order_untrusted

MAX_JOBS = 1000
MAX_US = 2**63 - 1


class Service:
    """Answers requests about one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running: dict[str, Drawing] = {}

    async def handle(self, kind: str, body: dict[str, Value], emit: Emit) -> None:
        """Emits the events of one request; UserError if it cannot be done."""
        fields = Fields(body, kind)
        match kind:
            case "status":
                emit("status", self._status())
            case "swarm":
                emit("swarm", {"peers": self._swarm()})
            case "render":
                await self._render(body, emit)
            case "quote":
                emit("quote", quoting.quote(self._node, await order_untrusted(self._node, kind, body)))
            case "jobs":
                limit = fields.integer("limit", 1, MAX_JOBS)
                running = frozenset(self._running)
                listed = await trio.to_thread.run_sync(history.jobs, self._node.ledger, limit, running)
                emit("jobs", {"jobs": listed})
            case "cancel":
                emit("cancelled", {"job": self._cancel(fields.text("job", at_most_bytes=64))})
            case "why":
                job = fields.maybe("job", lambda key: fields.text(key, at_most_bytes=64))
                report = await trio.to_thread.run_sync(history.why, self._node.ledger, job)
                emit("why", {"report": report})
            case _:
                raise UserError(f"There is no request {kind!r}.", WRONG_USAGE)

    def on_saved(self, body: dict[str, Value]) -> None:
        """The command wrote a picture of a job under way to disk, from `start_us` for `us`, or could not: nil.

        MalformedMessage if it says no such thing.
        """
        fields = Fields(body, "saved")
        running = self._running.get(fields.text("job", at_most_bytes=64))
        index = fields.integer("picture", 0, MAX_COUNT)
        start_us = fields.integer("start_us", 0, MAX_US)
        us = fields.maybe("us", lambda key: fields.integer(key, 0, MAX_US))
        if running is not None:
            running.on_saved(index, start_us, us)

    # what is

    def _status(self) -> dict[str, Value]:
        node = self._node
        return {
            "peer": node.peer,
            "name": node.config.name,
            "addresses": list(node.host.addresses),
            "providing": node.config.provide,
            "models": [
                {
                    "id": model.id.hex(),
                    "name": model.name,
                    "family": model.family,
                    "state": "resident" if model.id in node.renderer.resident else "disk",
                    "adapters": [
                        {"id": each.id.hex(), "name": each.name}
                        for each in node.adapters.get(model.id, {}).values()
                    ],
                }
                for model in node.models.values()
            ],
            "devices": [device.to_value() for device in node.devices],
            "peers_known": node.directory.statistics()["peers"],
            "peers_connected": len(node.host.connected()),
            "version": __version__,
            "uptime_us": now_us() - node.started_us,
            "clock_notes": list(node.directory.notes()),
        }

    def _swarm(self) -> list[Value]:
        candidates = sorted(
            self._node.directory.candidates(now_us()), key=lambda each: (not each.own, each.rtt_us)
        )
        return [self._row(candidate) for candidate in candidates]

    def _row(self, candidate: Candidate) -> Value:
        advert = candidate.advert
        provides = bool(advert.kinds)
        steps = [speed.step_us for model in advert.models for speed in model.speeds]
        if candidate.speeds:
            steps = [speed.step_us for speed in candidate.speeds.speeds.values()] or steps
        device = advert.devices[0] if advert.devices else None
        state = candidate.state
        return {
            "peer": candidate.peer,
            "name": advert.name,
            "self": candidate.own,
            "provides": self._node.config.provide if candidate.own else provides,
            "device": f"{device.name}{f' x{device.count}' if device.count > 1 else ''}"
            if device
            else "unknown",
            "models": [model.name for model in advert.models] if provides else [],
            "adapters": [
                {"model": model.id.hex(), "id": each.id.hex(), "name": each.name}
                for model in (advert.models if provides else ())
                for each in model.adapters
            ],
            "model_ids": [model.id.hex() for model in advert.models] if provides else [],
            "rtt_us": 0 if candidate.own else candidate.rtt.min_us if candidate.rtt else None,
            "jitter_us": candidate.rtt.jitter_us if candidate.rtt else None,
            "wait_us": state.wait_us if state else None,
            "step_us": min(steps) if steps else None,
            "connected": candidate.connected,
            "note": candidate.notes[0] if candidate.notes else None,
        }

    # jobs

    async def _render(self, body: dict[str, Value], emit: Emit) -> None:
        order = await order_untrusted(self._node, "render", body)
        quoting.check_in_time(self._node, order)
        drawing = Drawing(self._node, order, emit)
        self._running[drawing.job] = drawing
        try:
            await drawing.run()
        finally:
            del self._running[drawing.job]

    def _cancel(self, prefix: str) -> str:
        meant = [job for job in self._running if job.startswith(prefix)]
        if len(meant) != 1:
            what = "Several jobs begin" if meant else "No running job begins"
            raise UserError(f"{what} with {prefix!r}.", WRONG_USAGE)
        self._running[meant[0]].cancel()
        return meant[0]
