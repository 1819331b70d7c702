"""The product's policy: the protocol's directory, selection, job and queue, carried as `peer/` carries them.

What `peer/requester.py`, `peer/link.py` and `peer/gossip.py` do with sockets and clocks is done here with events.
"""

from random import Random

from protocol.policy.queue import Queue
from protocol.policy.telling import Telling
from protocol.wire.advert import Advert, Device, Limits, OfferedModel, SignedAdvert, Speed
from protocol.wire.hello import MODEL_ID_BYTES
from protocol.wire.identity import KEY_BYTES, peer_id_of, public_key_of
from protocol.wire.statement import Statement

from .acquaintance import acquaint
from .clock import Clock
from .control import usual_pace
from .costs import Costs
from .errand import Errand
from .outcome import Ledger
from .provider import LIE_FACTOR, LearningProvider, name_of, statement_of
from .requester import Requester
from .world import World

PUBLISH_SPREAD = 2 / 3, 4 / 3  # of the mean interval, as in peer/gossip.py

GOSSIP_US = 300_000  # over a few hops
REJOIN_US = 1_000_000  # until one who came back has dialled its old acquaintances
NETWORK = "simulation"


class Nearlight:
    """A swarm of real decision code."""

    def __init__(self, world: World, clock: Clock, costs: Costs, ledger: Ledger, dice: Random) -> None:
        self.world, self.clock, self.costs, self.ledger, self.dice = world, clock, costs, ledger, dice
        self.model_ids = [
            (b"model %d" % model).ljust(MODEL_ID_BYTES, b"\0") for model in range(world.config.models)
        ]
        self.attempts = 0
        self.providers = [
            LearningProvider(index, world, clock, costs, self.model_ids, self._on_capabilities, self._on_news)
            for index in range(world.config.peers)
        ]
        self._pace = usual_pace(world.config.peers + world.config.requesters)
        self._tells_us = [-1] * world.config.peers  # when each tells its watchers again
        self._tellings = [Telling(0) for _ in range(world.config.peers)]
        self.names = [peer_id_of(public_key_of(_key(index))) for index in range(world.config.peers)]
        self.number_of = {name: index for index, name in enumerate(self.names)}
        askers = [name_of(index) for index in range(world.config.requesters)]
        self.acquaintance = acquaint(world, self.names, askers, dice)
        self.adverts = [self._first_advert(index) for index in range(world.config.peers)]
        self.requesters = [
            Requester(index, self, known) for index, known in enumerate(self.acquaintance.known)
        ]
        self._statements: dict[tuple[int, int], Statement] = {}
        for index, telling in enumerate(self._tellings):
            # Each told its last advert at a moment of its own.
            interval_us = self._pace.interval_us
            telling.on_told(0, int(interval_us * dice.random()), interval_us)
            self._look_at_telling(index)
        for index, away_us, back_us in world.leaves:
            clock.at(away_us, self._leave, index)
            clock.at(back_us, self._return, index)

    def ask(self, request: int) -> None:
        requester = self.requesters[self.world.requests.requester[request]]
        requester.stay_active()
        Errand(request, requester, self).begin()

    def statement(self, request: int) -> Statement:
        asked = self.world.requests
        key = asked.model[request], asked.steps[request]
        found = self._statements.get(key)
        if found is None:
            found = self._statements[key] = statement_of(self.model_ids[key[0]], key[1], self.world.result_px)
        return found

    # adverts

    def _first_advert(self, index: int) -> SignedAdvert:
        return SignedAdvert.sign(self._able(index, 0), network=NETWORK, private_key=_key(index))

    def _able(self, index: int, sequence: int) -> Advert:
        world, provider = self.world, self.providers[index]
        side_px, lie = world.result_px, LIE_FACTOR if provider.lying else 1
        step_us, fixed_us = max(1, int(world.step_us(index) / lie)), int(world.fixed_us(index) / lie)
        speeds = (Speed(side_px, side_px, "fp16", step_us, fixed_us),)
        models = tuple(
            OfferedModel(
                id=self.model_ids[model],
                name=f"model {model}",
                family="sd",
                state="resident" if model in provider.warm or provider.lying else "disk",
                native=(side_px, side_px),
                load_us=world.cold_us[index][model],
                speeds=speeds,
            )
            for model in range(world.config.models)
            if world.capable[index, model]
        )
        return Advert(
            name=f"p{index}",
            boot_epoch=0,
            sequence=sequence,
            issued_us=self.clock.now_us,
            lifetime_s=self._pace.lifetime_s,
            addresses=(),
            kinds=("txt2img",),
            devices=(Device("cuda", "simulated", 1, None, None, None, ("fp16",)),),
            models=models,
            limits=Limits(pixels=1 << 20, steps=1000, prompt_bytes=2000, queue=16),
            coordinate=self.acquaintance.providers_at[index],
            shard_bits=self.acquaintance.bits,
        )

    def _on_told(self, index: int) -> None:
        interval_us = self._pace.interval_us
        pause_us = int(interval_us * self.dice.uniform(*PUBLISH_SPREAD))
        self._tellings[index].on_told(self.clock.now_us, pause_us, interval_us)
        self._look_at_telling(index)

    def _look_at_telling(self, index: int) -> None:
        self.clock.at(self._tellings[index].due_us, self._tell_if_due, index)

    def _tell_if_due(self, index: int) -> None:
        """Unless it was told sooner meanwhile: that looks again by itself."""
        if self.clock.now_us >= self._tellings[index].due_us:
            self._publish(index)

    def _on_capabilities(self, index: int) -> None:
        """What is resident changed."""
        if self._tellings[index].on_change():
            self._look_at_telling(index)

    def _on_news(self, index: int) -> None:
        """Tells who watches a provider; again when the gap of others is over."""
        provider, now_us, again_us = self.providers[index], self.clock.now_us, None
        for watcher in provider.watchers.peers:
            requester = self.requesters[int(watcher)]
            state = provider.live_state(requester.index)
            due_us = provider.watchers.due_us(watcher, state, now_us)
            if due_us is None:
                continue
            if due_us > now_us:
                again_us = due_us if again_us is None else min(again_us, due_us)
                continue
            whole = provider.watchers.on_news(watcher, state, now_us)
            self.costs.on_told(index, whole=whole)
            way_us = self.world.round_trip_us(requester.index, index, self.dice) // 2
            self.clock.at(now_us + way_us, requester.on_told, self.names[index], state)
        if again_us is not None and not now_us < self._tells_us[index] <= again_us:
            self._tells_us[index] = again_us
            self.clock.at(again_us, self._on_news, index)

    def _publish(self, index: int) -> None:
        self._on_told(index)
        if self.providers[index].gone:
            return
        old = self.adverts[index]
        able = self._able(index, old.advert.sequence + 1)
        # The envelope is the first one's: it names the peer, and nobody here doubts it.
        self.adverts[index] = SignedAdvert(able, old.envelope)
        self.costs.adverts += 1
        self.costs.messages["advert"] += len(self.acquaintance.mates[index])
        self.clock.at(self.clock.now_us + GOSSIP_US, self._deliver, index, self.adverts[index])

    def _deliver(self, index: int, signed: SignedAdvert) -> None:
        now_us = self.clock.now_us
        for requester in self.acquaintance.mates[index]:
            self.requesters[requester].directory.on_advert(signed, now_us, now_us)

    # churn

    def _leave(self, index: int) -> None:
        self.providers[index].leave(Queue())
        for requester in self.requesters:
            requester.on_disconnected(self.names[index])

    def _return(self, index: int) -> None:
        self.providers[index].gone = False
        self._publish(index)
        self.clock.at(self.clock.now_us + REJOIN_US, self._rejoin, index)

    def _rejoin(self, index: int) -> None:
        if not self.providers[index].gone:
            for requester in self.requesters:
                requester.on_returned(self.names[index])


def _key(index: int) -> bytes:
    """The private key of a provider."""
    return (b"provider %d" % index).ljust(KEY_BYTES, b"\0")
