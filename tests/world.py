"""Peers in memory: the real links, gossip, providers and requesters of several peers over a network that is faked.

Time is virtual (a test takes `autojump_clock`): nothing waits for the wall clock, and computing takes no time.
"""

import functools
import hashlib
import heapq
import io
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio
import trio.testing
from PIL import Image

import peer.conversing
import peer.delivery
import peer.gossip
import peer.joining
import peer.link
import peer.provider
import peer.requester
import peer.residents
import peer.task_stream
import peer.work
from peer.asking import Asked as AskedAt
from peer.asking import Events
from peer.changed import Changed
from peer.gossip import Gossip
from peer.joining import Joining
from peer.journal import Journal
from peer.link import BURST, BURST_EVERY_S, Links
from peer.network import DialFailed, NobodyListens, NotConnected, StreamLost
from peer.provider import Provider
from peer.renderer.abilities import Abilities, Reader
from peer.renderer.client import RenderCancelled, Rendered, Step
from peer.requester import Requester
from peer.residents import Residents
from peer.store.adapters import LocalAdapter
from peer.store.ledger import Ledger, ReceiptRecord
from peer.store.models import LocalModel
from peer.work import Work
from protocol.policy.cost import USUAL
from protocol.policy.demand import Demand
from protocol.policy.directory import Directory
from protocol.policy.neighbours import CONNECTIONS, MOST_CONNECTIONS
from protocol.policy.timeline import Timeline
from protocol.wire.advert import Advert, Device, FewStep, Limits, OfferedModel, SignedAdvert
from protocol.wire.frames import FrameReader, pack
from protocol.wire.identity import peer_id_of, public_key_of
from protocol.wire.receipt import pixel_hash
from protocol.wire.statement import KINDS, Statement
from protocol.wire.task import MAX_TASK_MESSAGE_BYTES, task_message_untrusted, to_value
from protocol.wire.task import PROTOCOL as TASK_PROTOCOL

NETWORK = "world"
MODEL, OTHER_MODEL = b"m" * 32, b"o" * 32
LIMITS = Limits(pixels=2048 * 2048, steps=200, prompt_bytes=8192, queue=16)
DELAY_US = 1_000  # one way, between two peers of which nothing else is said
READERS = (Reader(77, lambda text: 2 + len(text.split())),)  # a token for each word, and the end marks
STAGES = ("noise", "encode_prompt", "prepare", "step", "decode", "encode_image")


def now_us():
    return round(trio.current_time() * 1e6)


def use_virtual_time(monkeypatch):
    """The peers' clock is trio's, and what they leave to threads is done at once."""
    modules = (peer.gossip, peer.link, peer.provider, peer.requester, peer.residents, peer.task_stream)
    modules += (peer.conversing, peer.delivery, peer.joining)
    for module in (*modules, peer.work):
        monkeypatch.setattr(module, "now_us", now_us)
    monkeypatch.setattr(trio.to_thread, "run_sync", _at_once)


async def _at_once(function, *args, **_):
    await trio.lowlevel.checkpoint()
    return function(*args)


def statement(**changes):
    wanted = Statement(
        model=MODEL,
        prompt="a lighthouse",
        width=64,
        height=64,
        steps=4,
        guidance_millionths=3_500_000,
        sampler="ddim",
        seed=7,
        salt=bytes(16),
        precision="fp32",
    )
    return replace(wanted, **changes)


@functools.cache
def picture(width, height, seed):
    """(PNG file, pixel hash) of noise: it does not compress, so that its transfer takes several chunks."""
    rgb = random.Random(seed).randbytes(3 * width * height)
    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), rgb).save(file, "PNG", compress_level=1)
    return file.getvalue(), pixel_hash(rgb, width=width, height=height)


# the network


@dataclass
class Wire:
    """One direction of a stream: what is under way, with the time at which it arrives."""

    pieces: list = field(default_factory=list)
    buffer: bytes = b""
    ended: bool = False
    sent: int = 0
    changed: Changed = field(default_factory=Changed)


class FakeStream:
    """One end of a stream, with what peer.host.PeerStream has."""

    def __init__(self, network, here, there, protocol, wires):
        self.peer, self.protocol = there, protocol
        self._network, self._here = network, here
        self._out, self._in = wires
        self.lost = self._closed = False
        self.heard_us = self.left_us = now_us()

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self.lost:
            raise StreamLost(f"the stream to {self.peer} was lost")
        for piece in self._network.tampered(self._here, self.peer, self.protocol, bytes(data)):
            self._put(piece)
        self.left_us = now_us()

    def _put(self, piece):
        self._out.sent += 1
        due_us = now_us() + self._network.delay_us(self._here, self.peer)
        if self._out.pieces:
            due_us = max(due_us, max(due for due, _, _ in self._out.pieces))  # in order
        heapq.heappush(self._out.pieces, (due_us, self._out.sent, piece))
        self._out.changed.notify()

    async def receive_some(self, max_bytes=65_524):
        await trio.lowlevel.checkpoint()
        wire = self._in
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self.lost:
                raise StreamLost(f"the stream to {self.peer} was lost")
            thawed = not self._network.is_frozen(self._here, self.peer)
            while thawed and not wire.buffer and wire.pieces and wire.pieces[0][0] <= now_us():
                self.heard_us, _, piece = heapq.heappop(wire.pieces)
                wire.buffer, wire.ended = wire.buffer + piece, wire.ended or not piece
            if wire.buffer:
                data, wire.buffer = wire.buffer[:max_bytes], wire.buffer[max_bytes:]
                return data
            if wire.ended:
                return b""
            due_us = wire.pieces[0][0] if thawed and wire.pieces else None
            with trio.move_on_at(float("inf") if due_us is None else due_us / 1e6):
                await wire.changed.wait()

    async def aclose(self):
        if not self._closed:
            self._closed = True
            self._put(b"")
            self._in.changed.notify()
        await trio.lowlevel.checkpoint()

    async def reset(self):
        self._network.lose(self)

    def break_now(self):
        self.lost = True
        self._in.changed.notify()


class Network:
    """Who can reach whom, and how fast.  `tamper(source, target, message)` may change each task message, or drop it."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.hosts = {}
        self.delays_us = {}  # frozenset of two peers -> one way
        self.tamper = None
        self._ended = set()
        self._severed = set()
        self._frozen = set()
        self._streams = []  # pairs of ends

    def host(self, peer_id):
        number = len(self.hosts) + 1
        host = self.hosts[peer_id] = FakeHost(self, peer_id, f"/ip4/10.0.0.{number}/tcp/4001/p2p/{peer_id}")
        return host

    def delay_us(self, one, other):
        return self.delays_us.get(frozenset((one, other)), DELAY_US)

    def is_frozen(self, *peers):
        return not self._frozen.isdisjoint(peers)

    def freeze(self, peer_id):
        """Connections stay open, and nothing comes or goes."""
        self._frozen.add(peer_id)

    def thaw(self, peer_id):
        self._frozen.discard(peer_id)
        for ends in self._streams:
            for end in ends:
                end._in.changed.notify()

    def cut(self, one, other, *, for_ever=False):
        """The connection between them breaks; unless `for_ever`, they may connect again."""
        if for_ever:
            self._severed.add(frozenset((one, other)))
        pair = {one, other}
        for ends in [ends for ends in self._streams if {end.peer for end in ends} == pair]:
            self.lose(ends[0])
        for here, there in ((one, other), (other, one)):
            host = self.hosts[here]
            if there in host.peers:
                host.peers.discard(there)
                host.on_disconnected(there)

    def mend(self):
        """Whoever was cut off may connect again."""
        self._severed.clear()

    def end(self, peer_id):
        """Its process is gone: connections break, and nobody listens at its address."""
        self._ended.add(peer_id)
        for other in self.hosts.keys() - {peer_id}:
            self.cut(peer_id, other)

    def lose(self, stream):
        for ends in [ends for ends in self._streams if stream in ends]:
            self._streams.remove(ends)
            for end in ends:
                end.break_now()

    async def join(self, one, other):
        """Connects them, as a dial does: in some round trips."""
        if frozenset((one, other)) in self._severed or self.is_frozen(one, other):
            raise DialFailed(other, "no answer")
        await trio.sleep(8 * self.delay_us(one, other) / 1e6)
        for here, there in ((one, other), (other, one)):
            host = self.hosts[here]
            if there not in host.peers:
                host.peers.add(there)
                host.on_connected(there)

    async def open(self, here, there, protocol):
        await trio.sleep(2 * self.delay_us(here, there) / 1e6)
        if there not in self.hosts[here].peers:
            raise NotConnected(f"there is no connection to {there}")
        out, back = Wire(), Wire()
        near = FakeStream(self, here, there, protocol, (out, back))
        far = FakeStream(self, there, here, protocol, (back, out))
        self._streams.append((near, far))
        self.nursery.start_soon(self.hosts[there].handle, protocol, far)
        return near

    def tampered(self, here, there, protocol, data):
        if self.tamper is None or protocol != TASK_PROTOCOL:
            return [data]
        messages = map(
            task_message_untrusted, FrameReader(at_most_bytes=MAX_TASK_MESSAGE_BYTES).feed_untrusted(data)
        )
        changed = [self.tamper(here, there, message) for message in messages]
        return [each if isinstance(each, bytes) else pack(to_value(each)) for each in changed if each]


class FakeHost:
    """What peer.host.Host is to a peer."""

    def __init__(self, network, peer_id, address):
        self.peer_id, self.addresses = peer_id, (address,)
        self.peers = set()
        self.errors = []  # (peer, protocol, error): what handlers let out
        self.on_connected = self.on_disconnected = lambda peer_id: None
        self._network = network
        self._handlers = {}
        self._topics = {}
        self._seen = set()

    def set_handler(self, protocol, handler):
        self._handlers[protocol] = handler

    def connected(self):
        return frozenset(self.peers)

    async def dial(self, address, *, timeout_s=10.0):
        there = address.rpartition("/")[2]
        if there not in self._network.hosts or there in self._network._ended:
            raise NobodyListens(there, "nobody is there")
        if there not in self.peers:
            await self._network.join(self.peer_id, there)
        return there

    async def disconnect(self, there):
        self._network.cut(self.peer_id, there)
        await trio.lowlevel.checkpoint()

    async def open_stream(self, there, protocol, *, timeout_s=5.0):
        return await self._network.open(self.peer_id, there, protocol)

    async def handle(self, protocol, stream):
        try:
            await self._handlers[protocol](stream)
        except Exception as exc:  # noqa: BLE001  as the real host: the outermost stream handler
            await stream.reset()
            self.errors.append((stream.peer, protocol, exc))
        else:
            await stream.aclose()

    async def subscribe(self, topic, validate, deliver):
        self._topics[topic] = (validate, deliver)
        await trio.lowlevel.checkpoint()

    async def unsubscribe(self, topic):
        del self._topics[topic]
        await trio.lowlevel.checkpoint()

    async def publish(self, topic, data):
        self._seen.add(hashlib.sha256(topic.encode() + data).digest())
        self._flood(topic, self.peer_id, data, but=None)
        await trio.lowlevel.checkpoint()

    def _flood(self, topic, author, data, but):
        for there in self.peers - {but}:
            self._network.nursery.start_soon(self._pass_on, there, topic, author, data)

    async def _pass_on(self, there, topic, author, data):
        await trio.sleep(self._network.delay_us(self.peer_id, there) / 1e6)
        if there in self.peers and not self._network.is_frozen(self.peer_id, there):
            self._network.hosts[there]._hear(self.peer_id, topic, author, data)

    def _hear(self, forwarder, topic, author, data):
        digest = hashlib.sha256(topic.encode() + data).digest()
        if topic not in self._topics or digest in self._seen:
            return
        self._seen.add(digest)
        validate, deliver = self._topics[topic]
        if validate(forwarder, author, data):
            deliver(author, data)
            self._flood(topic, author, data, but=forwarder)


# the renderer


class FakeRenderer:
    """What peer.renderer.client.Renderer is to a provider.  Set what it should do; it draws noise."""

    def __init__(self):
        self.environment, self.pid, self.restarts = "fake", None, 0
        self.resident = ()
        self.load_us, self.start_us = 50_000, 30_000
        self.running = False  # its process
        self.refuses = None  # raised before it starts
        self.used_bytes, self.retired = None, []
        self.stage_us = {
            "noise": 100,
            "encode_prompt": 5_000,
            "prepare": 500,
            "step": 20_000,
            "decode": 8_000,
            "encode_image": 3_000,
        }
        self.handoff_us = self.handback_us = 200
        self.applied, self.apply_us = (), 40_000  # adapters, as statements have them; until they are
        self.error = None  # raised after the first step
        self.hangs_at_step = None
        self.change = lambda rendered: rendered
        self.rendered, self.cancelled = [], []  # attempts
        self.prompts = []
        self._cancels = {}

    async def load(self, folder, model, variant=""):
        if model in self.resident:
            return ()
        began_us, spans = now_us(), []
        if not self.running:
            await trio.sleep(self.start_us / 1e6)
            spans.append(("start_renderer", began_us, now_us() - began_us))
            self.running, began_us = True, now_us()
        await trio.sleep(self.load_us / 1e6)
        self.resident = (*self.resident, model)
        return (*spans, ("load_weights", began_us, now_us() - began_us))

    async def unload(self, model):
        self.resident = tuple(each for each in self.resident if each != model)
        await trio.lowlevel.checkpoint()

    def weights_bytes(self, model):
        return None

    def memory_bytes(self):
        return self.used_bytes

    async def retire(self, why):
        self.retired.append(why)
        self.resident, self.running = (), False
        await trio.lowlevel.checkpoint()

    async def render(
        self, task, model, statement_bytes, on_step, *, adapters=(), on_started=lambda: None, preview=True
    ):
        wanted = Statement.from_untrusted(statement_bytes)
        assert [each for each, _, _ in adapters] == [each for each, _ in wanted.adapters]
        self.prompts.append(wanted.prompt)
        stop = self._cancels[task] = trio.Event()
        steps_done, spans = 0, []

        async def stage(name):
            began_us = now_us()
            with trio.move_on_after((self.stage_us | {"load_adapter": self.apply_us})[name] / 1e6):
                await stop.wait()
            if stop.is_set():
                self.cancelled.append(task)
                raise RenderCancelled(steps_done)
            spans.append((name, began_us, now_us() - began_us))

        try:
            await trio.sleep(self.handoff_us / 1e6)
            if self.refuses is not None:
                raise self.refuses
            if self.applied != wanted.adapters:
                self.applied = wanted.adapters
                if wanted.adapters:
                    await stage("load_adapter")
            on_started()
            await stage("noise")
            await stage("encode_prompt")
            await stage("prepare")
            for step in range(1, wanted.steps + 1):
                if step == self.hangs_at_step:
                    await stop.wait()
                await stage("step")
                steps_done = step
                on_step(Step(step, wanted.steps, self.stage_us["step"], (2, 2, bytes([step] * 12))))
                if self.error is not None:
                    raise self.error
            await stage("decode")
            await stage("encode_image")
            await trio.sleep(self.handback_us / 1e6)
        finally:
            del self._cancels[task]
        file, pixels = picture(wanted.width, wanted.height, wanted.seed)
        self.rendered.append(task)
        return self.change(
            Rendered(file, wanted.width, wanted.height, pixels, b"s" * 32, wanted.steps, tuple(spans))
        )

    def cancel(self, task):
        if task in self._cancels:
            self._cancels[task].set()


# peers


class KnownPeers:
    """What a ledger is to a peer that joins others: those it was in touch with, the last first."""

    def __init__(self):
        self._known = {}

    def put_peers(self, known):
        met = {each.peer: each for each in known}
        self._known = met | {peer: each for peer, each in self._known.items() if peer not in met}

    def known_peers(self):
        return tuple(self._known.values())


@dataclass(frozen=True)
class FakeModel:
    """As much of peer.store.models.LocalModel as a provider looks at."""

    id: bytes
    folder: Path = Path("model")
    variant: str = ""
    bytes: int = 24_000_000
    abilities: Abilities = field(default_factory=lambda: Abilities("sd", 8, 1000, True, READERS))

    why_not, surely_reads, why_not_read = LocalModel.why_not, LocalModel.surely_reads, LocalModel.why_not_read


@dataclass(frozen=True)
class FakeAdapter:
    """As much of peer.store.adapters.LocalAdapter as a provider looks at."""

    id: bytes
    name: str
    few_step: FewStep | None = None
    weights: Path = Path("weights")
    weights_root: bytes = b"r" * 32

    offered = LocalAdapter.offered


class Peer:
    """One peer, wired as in peer.node."""

    def __init__(
        self,
        world,
        name,
        *,
        provide,
        allow,
        models,
        home,
        rate_millionths=None,
        listed=(),
        room_bytes=None,
        adapters=(),
    ):
        self.name, self._world = name, world
        self.key = hashlib.sha256(name.encode()).digest()
        self.id = peer_id_of(public_key_of(self.key))
        self.host = world.network.host(self.id)
        self.directory = Directory(self.id, lambda: self.work.live_state(self.id))
        self.demand = Demand(CONNECTIONS, MOST_CONNECTIONS)
        self.renderer = FakeRenderer()
        self.journal = []  # (event, fields)
        self.receipts, self.settled, self.kept = {}, {}, []
        self.save_us = 0
        self._sequence = 0
        self._models, self._adapters = models, adapters
        self.rate_millionths = rate_millionths
        self._ledger = Ledger(home / "ledger.sqlite3") if home else None
        self._file = Journal(home / "journal.jsonl") if home else None
        self.links = Links(
            self.host,
            self.directory,
            network=NETWORK,
            state=lambda peer: self.work.live_state(peer) if provide else None,
            on_ready=lambda other: world.nursery.start_soon(self.gossip.sync, other),
            on_measured=lambda other: self.gossip.on_measured(other),
            agent="world",
        )
        self.gossip = Gossip(
            self.host,
            self.directory,
            network=NETWORK,
            private_key=self.key,
            able=self._able,
            provide=provide,
            demand=self.demand,
            on_fresh=self._on_fresh,
            on_sought=lambda other, model: self.residents.on_sought(other, model),
        )
        self.joining = Joining(
            self.host,
            self.directory,
            self.gossip,
            self._ledger or KnownPeers(),
            addresses=(),
            rejoin=True,
            journal=self._write,
        )
        self.residents = Residents(
            renderer=self.renderer,
            models={model: FakeModel(model) for model in models},
            speeds=self.directory.speeds,
            own_peer=self.id,
            on_capabilities=self.gossip.renew,
            journal=self._write,
            listed=listed,
            ahead=bool(listed),
            device_limit_bytes=room_bytes,
        )
        self.work = Work(
            private_key=self.key,
            network=NETWORK,
            own_peer=self.id,
            renderer=self.renderer,
            residents=self.residents,
            models={model: FakeModel(model) for model in models},
            adapters={model: {each.id: each for each in adapters} for model in models},
            speeds=self.directory.speeds,
            on_capabilities=self.gossip.renew,
            on_receipt=self._keep_provided,
            journal=self._write,
            on_work=self.links.on_work,
            rate_millionths=rate_millionths,
        )
        self.provider = Provider(
            private_key=self.key,
            network=NETWORK,
            links=self.links,
            work=self.work,
            limits=LIMITS,
            allow=frozenset(allow),
            providing=provide,
            precisions=frozenset({"fp32"}),
            on_settled=self._keep_settled,
            journal=self._write,
        )
        self.requester = Requester(
            self.host,
            self.links,
            self.directory,
            demand=self.demand,
            private_key=self.key,
            network=NETWORK,
            own_stream=self._own_stream,
            keep=self._keep_received,
            name_of=self._name_of,
            journal=self._write,
        )
        self.host.on_connected = self._on_connected
        self.host.on_disconnected = self._on_disconnected
        self.host.set_handler(TASK_PROTOCOL, self._serve)

    async def start(self):
        await self._world.nursery.start(self.gossip.run)
        await self._world.nursery.start(self.work.run)
        await self._world.nursery.start(self.requester.run)

    def close(self):
        if self._ledger is not None:
            self._ledger.close()
            self._file.close()

    async def ask(self, wanted=None, *, remote=True, asked=None, asked_us=None, wishes=USUAL, only=None):
        """The Picture, or JobFailed; what the person would be told is kept in `asked`."""
        asked = Asked() if asked is None else asked
        at = AskedAt(now_us() if asked_us is None else asked_us, wishes=wishes, only=only)
        return await self.requester.render(
            wanted or statement(), "job", remote=remote, events=asked.events(), asked=at
        )

    def events(self, name):
        return [fields for event, fields in self.journal if event == name]

    def claim(self, peer, model=MODEL, **changes):
        """Makes this peer believe an advert of `peer` that says more than is true."""
        able = peer._able()
        models = (*able.models, _offered(model))
        signed = SignedAdvert.sign(
            replace(able, models=models, **changes), network=NETWORK, private_key=peer.key
        )
        assert self.directory.on_advert(signed, now_us(), 0).fresh

    def _able(self):
        self._sequence += 1
        return Advert(
            name=self.name,
            boot_epoch=1,
            sequence=self._sequence,
            issued_us=0,
            lifetime_s=180,
            addresses=self.host.addresses,
            kinds=tuple(KINDS),
            devices=(Device("cpu", "fake", 1, None, None, None, ("fp32",)),),
            models=tuple(
                replace(
                    _offered(model),
                    state="resident" if model in self.renderer.resident else "disk",
                    adapters=tuple(each.offered() for each in self._adapters),
                )
                for model in self._models
            ),
            limits=LIMITS,
            price_millionths=self.rate_millionths,
        )

    def _on_fresh(self, signed, note):
        self.residents.on_advert(signed)
        self.joining.on_advert(signed)

    def _on_connected(self, other):
        self.directory.on_connected(other)
        self._world.nursery.start_soon(self.links.open, other)

    def _on_disconnected(self, other):
        self.directory.on_disconnected(other)
        self.links.on_disconnected(other)

    async def _serve(self, stream):
        await self.provider.serve(stream, stream.peer)

    async def _own_stream(self):
        near, far = trio.testing.memory_stream_pair()
        self._world.nursery.start_soon(self.provider.serve, far, self.id)
        return near

    def _name_of(self, other):
        signed = self.directory.signed_advert(other)
        return signed.advert.name if signed else other[-6:]

    def _write(self, event, **fields):
        self.journal.append((event, fields))
        if self._file is not None:
            self._file.write(event, **fields)

    def _put(self, *args, **more):
        if self._ledger is not None:
            self._ledger.put_receipt(ReceiptRecord(*args, **more))

    async def _keep_provided(self, task, envelope):
        self.receipts[task.attempt] = envelope
        self._put(task.attempt, "provider", task.requester, 0, envelope)

    async def _keep_settled(self, attempt, envelope):
        self.settled[attempt] = envelope
        if self._ledger is not None:
            held = self._ledger.get_receipt(attempt, "provider")
            self._put(attempt, "provider", held.peer, 0, held.envelope, settled=envelope)

    async def _keep_received(self, attempt, settled, job):
        await trio.sleep(self.save_us / 1e6)
        self.kept.append((attempt, settled))
        self._put(
            attempt.id,
            "requester",
            attempt.choice.peer,
            0,
            attempt.receipt.envelope.to_bytes(),
            job=job,
            offer=attempt.offer.envelope.to_bytes(),
            settled=settled,
        )


@dataclass
class Asked:
    """What the person who asked was told."""

    plans: list = field(default_factory=list)
    attempts: list = field(default_factory=list)
    told: list = field(default_factory=list)
    progress: list = field(default_factory=list)
    drawn: list = field(default_factory=list)
    on_progress: object = lambda number, progress: None

    def events(self):
        def progressed(number, progress):
            self.progress.append(progress)
            self.on_progress(number, progress)

        return Events(
            self.plans.append, self.attempts.append, self.told.append, progressed, self.drawn.append
        )


class World:
    def __init__(self, nursery):
        self.nursery = nursery
        self.network = Network(nursery)
        self.peers = {}

    async def add(
        self,
        name,
        *,
        provide=True,
        allow=(),
        models=(MODEL,),
        home=None,
        delay_us=DELAY_US,
        rate_millionths=None,
        listed=(),
        room_bytes=None,
        adapters=(),
    ):
        """A peer that runs, connected to all others `delay_us` away, known to them and knowing them.

        `listed`: models that it loads ahead of demand; `room_bytes`: for weights.
        """
        added = Peer(
            self,
            name,
            provide=provide,
            allow=allow,
            models=models,
            home=home,
            rate_millionths=rate_millionths,
            listed=listed,
            room_bytes=room_bytes,
            adapters=adapters,
        )
        await added.start()
        self.nursery.start_soon(added.joining.run)
        for other in self.peers.values():
            self.network.delays_us[frozenset((added.id, other.id))] = delay_us
            await self.network.join(added.id, other.id)
        self.peers[name] = added
        await self.settle()
        return added

    async def settle(self):
        """Until the links have measured: the burst of pings is over, and everyone has everyone's advert."""
        await trio.sleep(BURST * BURST_EVERY_S + 1)
        for one in self.peers.values():
            candidates = one.directory.candidates(now_us(), own=False)
            assert len(candidates) == len(self.peers) - 1
            assert all(candidate.rtt is not None for candidate in candidates)


def _offered(model):
    return OfferedModel(model, "model", "sd", "resident", (64, 64), 50_000, ())


def spans_us(timeline: Timeline):
    """Critical time by span name."""
    totals = defaultdict(int)
    for span in timeline.spans():
        if span.critical:
            totals[span.span] += span.us
    return dict(totals)
