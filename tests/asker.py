"""The command's side of a peer in memory: what it asks of the peer's service, and what it is told."""

import json
from pathlib import Path
from types import SimpleNamespace

import peer.batch
import peer.drawing
import peer.order
import peer.quoting
import peer.service
import peer.wanted
from peer.service import Service

from .world import MODEL, now_us

ASKED = {
    "prompt": "a lighthouse", "negative": "", "model": None, "width": None, "height": None, "steps": 4,
    "guidance_millionths": None, "sampler": None, "seed": 7, "count": 1, "remote": True,
}  # fmt: skip


class Asker:
    """Of alice, who asks for what is `usual` but for the changes that a request names.

    `events` and `at_us` are what was told in answer to the last one, as (kind, body), and when; `when`, by kind, is
    what happens as it is told.
    """

    def __init__(self, monkeypatch, world, ledger, **usual):
        for module in (peer.batch, peer.drawing, peer.order, peer.quoting, peer.service, peer.wanted):
            monkeypatch.setattr(module, "now_us", now_us)
        self.world, self.alice, self.usual = world, world.peers["alice"], {**ASKED, **usual}
        self.events, self.at_us, self.when = [], [], {}
        model = SimpleNamespace(id=MODEL, name="model", family="sd", native=(64, 64), folder=Path("model"))
        self.service = Service(
            SimpleNamespace(
                peer=self.alice.id,
                models={MODEL: model},
                adapters={},
                directory=self.alice.directory,
                gossip=self.alice.gossip,
                requester=self.alice.requester,
                ledger=ledger,
                plain_name=self.alice._name_of,
                name_of=self.alice._name_of,
            )
        )

    async def ask(self, kind="render", **changes):
        self.events, self.at_us = [], []

        def emit(told, body):
            self.events.append((told, body))
            self.at_us.append(now_us())
            if told in self.when:
                self.when[told](body)

        await self.service.handle(kind, {**self.usual, **changes}, emit)
        return self.events

    async def only(self, told, kind="render", **changes):
        """The one event of its kind; of a picture, its summary."""
        await self.ask(kind, **changes)
        (body,) = self.told(told)
        return json.loads(body["summary"]) if told == "picture" else body

    def told(self, told):
        return [body for kind, body in self.events if kind == told]

    async def why(self):
        """What `peer why` says of the last job."""
        return json.loads((await self.only("why", "why", job=None))["report"])

    async def learn(self, *names):
        """How fast they are: each draws a picture for alice."""
        for name in names:
            others = [each for other, each in self.world.peers.items() if other not in ("alice", name)]
            for each in others:
                each.provider._providing = False
            await self.only("picture", count=1)
            for each in others:
                each.provider._providing = True
