"""One running peer: opens the nursery and wires every part by hand."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
import trio.testing

from protocol.policy.demand import Demand
from protocol.policy.directory import Directory
from protocol.policy.names import named, tail
from protocol.policy.neighbours import CONNECTIONS, MOST_CONNECTIONS
from protocol.wire.advert import Advert, Device, Limits, OfferedModel, SignedAdvert, Speed
from protocol.wire.identity import peer_id_of, public_key_of
from protocol.wire.statement import KINDS, MAX_PROMPT_BYTES
from protocol.wire.task import PROTOCOL as TASK_PROTOCOL

from . import __version__
from .asking import Attempt
from .clock import now_us, wall_us
from .config import PeerConfig
from .errors import LOCAL_SETUP, UserError
from .gossip import Gossip
from .groups import is_their_fault
from .host import Host, open_host
from .joining import Joining
from .journal import FILE as JOURNAL_FILE
from .journal import Journal
from .link import Links
from .network import CannotListen, HostConfig
from .provider import Provider
from .renderer.client import Renderer
from .renderer.devices import detect, total_memory_bytes
from .requester import Requester
from .residents import Residents
from .store.adapters import AdapterError, Adapters, find_adapters
from .store.digests import DigestCache
from .store.identity import next_boot_epoch
from .store.ledger import DifferentReceipt, Ledger, ReceiptRecord
from .store.models import LocalModel, ModelError, reference_model_folder, scan_folder
from .store.speeds import keep, remember
from .work import Task, Work

ADVERT_LIFETIME_S = 180  # three missed adverts
LIMITS = Limits(pixels=2048 * 2048, steps=200, prompt_bytes=MAX_PROMPT_BYTES, queue=16)
MAX_ADVERTISED_SPEEDS = 4


@dataclass
class Node:
    """The parts of a running peer."""

    config: PeerConfig
    host: Host
    directory: Directory
    links: Links
    gossip: Gossip
    work: Work
    provider: Provider
    requester: Requester
    renderer: Renderer
    ledger: Ledger
    journal: Journal
    models: dict[bytes, LocalModel]
    adapters: Adapters
    devices: tuple[Device, ...]
    nursery: trio.Nursery
    started_us: int

    @property
    def peer(self) -> str:
        return self.host.peer_id

    def plain_name(self, peer: str) -> str:
        """The peer's own name for itself; it may be anyone's."""
        signed = self.directory.signed_advert(peer)
        return signed.advert.name if signed else ""

    def name_of(self, peer: str) -> str:
        """What a person reads: the peer's own name for itself, and the end of its id."""
        if peer == self.peer:
            return f"{self.config.name} (this peer)" if self.config.name else "this peer"
        signed = self.directory.signed_advert(peer)
        return named(signed.advert.name or "peer", peer) if signed else tail(peer)


@asynccontextmanager
async def open_node(
    config: PeerConfig, private_key: bytes, on_event: Callable[[str, dict[str, Any]], None], *, rejoin: bool
) -> AsyncIterator[Node]:
    """A peer that listens, gossips and, if the configuration says so, provides; UserError if it cannot.

    `rejoin`: it gets in touch with peers it knew before, if none that it was told to join is there.
    """
    own_peer = peer_id_of(public_key_of(private_key))
    models, adapters = await trio.to_thread.run_sync(_scan, config)
    devices = await trio.to_thread.run_sync(detect)
    ledger = await trio.to_thread.run_sync(Ledger, config.home / "ledger.sqlite3")
    journal = Journal(config.home / JOURNAL_FILE)
    boot_epoch = next_boot_epoch(config.home)
    directory = Directory(own_peer, lambda: work.live_state(own_peer))
    demand = Demand(CONNECTIONS, MOST_CONNECTIONS)
    device = _chosen(config.device, devices)
    renderer = Renderer(device)
    speeds_of = " ".join([device, *(each.name for each in _used(devices, device)[:1])])
    await trio.to_thread.run_sync(remember, ledger, speeds_of, directory.speeds, own_peer)
    sequence = 0
    known_with_rtt: set[str] = set()

    def journal_write(event: str, **fields: Any) -> None:
        journal.write(event, **fields)

    def able() -> Advert:
        """What this peer can draw, be it for others or for itself only."""
        nonlocal sequence
        sequence += 1
        return Advert(
            name=config.name,
            boot_epoch=boot_epoch,
            sequence=sequence,
            issued_us=wall_us(),
            lifetime_s=ADVERT_LIFETIME_S,
            addresses=host.addresses[:8],
            kinds=tuple(KINDS),
            devices=_used(devices, device),
            models=tuple(
                replace(
                    _offered(model, directory, renderer, own_peer),
                    adapters=tuple(each.offered() for each in adapters.get(model.id, {}).values()),
                )
                for model in models.values()
            ),
            limits=LIMITS,
            price_millionths=config.price_millionths,
        )

    def on_capabilities(*, urgent: bool = False) -> None:
        """A model was loaded, is no longer loaded, or was drawn with for the first time, which is `urgent`."""
        gossip.renew(urgent=urgent)
        nursery.start_soon(trio.to_thread.run_sync, keep, ledger, speeds_of, directory.speeds, own_peer)

    def on_connected(peer: str) -> None:
        directory.on_connected(peer)
        nursery.start_soon(links.open, peer)

    def on_disconnected(peer: str) -> None:
        directory.on_disconnected(peer)
        links.on_disconnected(peer)
        gossip.on_disconnected()
        known_with_rtt.discard(peer)
        journal_write("left", peer=peer)
        on_event("left", {"peer": peer, "name": node.name_of(peer)})

    def on_link_ready(peer: str) -> None:
        nursery.start_soon(gossip.sync, peer)
        on_event("connected", {"peer": peer, "name": node.name_of(peer)})

    def on_fresh(signed: SignedAdvert, note: str | None) -> None:
        residents.on_advert(signed)
        joining.on_advert(signed)
        note_known(signed.peer)
        if note:
            journal_write("clock", peer=signed.peer, note=note)

    def on_handler_error(peer: str, protocol: str, error: BaseException) -> None:
        journal_write(
            "peer_error", peer=peer, protocol=protocol, error=type(error).__name__, what=str(error)[:200]
        )
        if is_their_fault(error):
            directory.on_penalty(peer, now_us())

    def on_measured(peer: str) -> None:
        gossip.on_measured(peer)
        note_known(peer)

    def note_known(peer: str) -> None:
        """Journals a peer once it is fully known: its advert, and a round trip to it."""
        signed, rtt = directory.signed_advert(peer), directory.rtt(peer)
        if peer in known_with_rtt or signed is None or rtt is None:
            return
        known_with_rtt.add(peer)
        journal_write(
            "peer_known", peer=peer, name=signed.advert.name, rtt_us=rtt.min_us, known=len(known_with_rtt)
        )

    async def keep_provided(task: Task, envelope: bytes) -> None:
        record = ReceiptRecord(task.attempt, "provider", task.requester, wall_us(), envelope)
        await trio.to_thread.run_sync(ledger.put_receipt, record)

    async def keep_settled(attempt: bytes, envelope: bytes) -> None:
        record = await trio.to_thread.run_sync(ledger.get_receipt, attempt, "provider")
        if record is not None:
            settled = ReceiptRecord(
                attempt, "provider", record.peer, record.received_us, record.envelope, settled=envelope
            )
            await trio.to_thread.run_sync(ledger.put_receipt, settled)

    async def keep_received(attempt: Attempt, settled: bytes, job: str) -> None:
        assert attempt.receipt is not None
        assert attempt.offer is not None
        record = ReceiptRecord(
            attempt.id,
            "requester",
            attempt.choice.peer,
            wall_us(),
            attempt.receipt.envelope.to_bytes(),
            job=job,
            offer=attempt.offer.envelope.to_bytes(),
            settled=settled,
        )
        try:
            await trio.to_thread.run_sync(ledger.put_receipt, record)
        except DifferentReceipt as exc:
            journal_write(
                "different_receipt", peer=attempt.choice.peer, attempt=attempt.id.hex(), what=str(exc)
            )

    async def own_stream() -> Any:
        """A task stream to this very peer: memory instead of network, the same conversation."""
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(_serve_own, provider, far, own_peer)
        return near

    async def serve_task(stream: Any) -> None:
        await provider.serve(stream, stream.peer)

    try:
        async with (
            _closing(ledger, journal),
            open_host(
                private_key,
                HostConfig(listen=config.listen, psk=config.psk),
                on_peer_connected=on_connected,
                on_peer_disconnected=on_disconnected,
                on_handler_error=on_handler_error,
            ) as host,
            trio.open_nursery() as nursery,
        ):
            links = Links(
                host,
                directory,
                network=config.network,
                state=lambda peer: work.live_state(peer) if config.provide else None,
                on_ready=on_link_ready,
                on_measured=on_measured,
                agent=f"nearlight/{__version__}",
            )
            gossip = Gossip(
                host,
                directory,
                network=config.network,
                private_key=private_key,
                able=able,
                provide=config.provide,
                on_fresh=on_fresh,
                demand=demand,
                on_sought=lambda peer, model: residents.on_sought(peer, model),
                in_use=lambda peer: provider.talks_with(peer) or requester.talks_with(peer),
            )
            residents = Residents(
                renderer=renderer,
                models=models,
                speeds=directory.speeds,
                own_peer=own_peer,
                on_capabilities=on_capabilities,
                journal=journal_write,
                listed=tuple(models) if config.models else (),
                ahead=config.provide,
                memory_limit_bytes=total_memory_bytes() * config.memory_percent // 100,
                device_limit_bytes=_device_memory_bytes(devices, device, config.memory_percent),
            )
            work = Work(
                private_key=private_key,
                network=config.network,
                own_peer=own_peer,
                renderer=renderer,
                residents=residents,
                models=models,
                adapters=adapters,
                speeds=directory.speeds,
                on_capabilities=on_capabilities,
                on_receipt=keep_provided,
                journal=journal_write,
                on_work=links.on_work,
                rate_millionths=config.price_millionths,
            )
            provider = Provider(
                private_key=private_key,
                network=config.network,
                links=links,
                work=work,
                limits=LIMITS,
                allow=frozenset(config.allow),
                providing=config.provide,
                precisions=frozenset(dtype for each in _used(devices, device) for dtype in each.dtypes),
                on_settled=keep_settled,
                journal=journal_write,
            )
            requester = Requester(
                host,
                links,
                directory,
                demand=demand,
                private_key=private_key,
                network=config.network,
                own_stream=own_stream,
                keep=keep_received,
                name_of=lambda peer: node.name_of(peer),
                journal=journal_write,
            )
            joining = Joining(
                host,
                directory,
                gossip,
                ledger,
                addresses=config.join,
                rejoin=rejoin,
                journal=journal_write,
            )
            node = Node(
                config, host, directory, links, gossip, work, provider, requester, renderer, ledger, journal,
                models, adapters, devices, nursery, now_us(),
            )  # fmt: skip
            host.set_handler(TASK_PROTOCOL, serve_task)
            journal_write("started", peer=own_peer, name=config.name, boot_epoch=boot_epoch)
            journal_write("listening", addresses=list(host.addresses))
            await nursery.start(renderer.run)
            await nursery.start(gossip.run)
            await nursery.start(work.run)
            await nursery.start(requester.run)
            nursery.start_soon(joining.run)
            on_event("listening", {"addresses": list(host.addresses), "join": list(host.addresses)})
            yield node
            await joining.remember()
            await trio.to_thread.run_sync(keep, ledger, speeds_of, directory.speeds, own_peer)
            journal_write("stopped")
            nursery.cancel_scope.cancel()
    except* CannotListen as group:
        raise UserError(f"{group.exceptions[0]}", LOCAL_SETUP) from None


async def _serve_own(provider: Provider, stream: Any, own_peer: str) -> None:
    """This peer's own task: what goes wrong is told to the requester by the stream's end."""
    try:
        await provider.serve(stream, own_peer)
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def _closing(ledger: Ledger, journal: Journal) -> AsyncIterator[None]:
    try:
        yield
    finally:
        ledger.close()
        journal.close()


def _scan(config: PeerConfig) -> tuple[dict[bytes, LocalModel], Adapters]:
    """The models this peer can render with, those it was given or else the one that ships with it, and their adapters."""
    folders: tuple[Path, ...] = config.models or (reference_model_folder(),)
    cache = DigestCache(config.home / "models.json")
    found = {}
    for folder in folders:
        try:
            model = scan_folder(folder, cache)
        except ModelError as exc:
            raise UserError(str(exc), LOCAL_SETUP) from exc
        found[model.id] = model
    try:
        return found, find_adapters(found.values(), config.adapters, cache)
    except (AdapterError, ModelError) as exc:
        raise UserError(str(exc), LOCAL_SETUP) from exc


def _chosen(wanted: str, devices: tuple[Device, ...]) -> str:
    kinds = {device.kind for device in devices}
    if wanted == "auto":
        return "cuda:0" if "cuda" in kinds else "cpu"
    kind = wanted.partition(":")[0]
    if kind not in kinds:
        raise UserError(f"There is no {kind} device here; there is {', '.join(sorted(kinds))}.", LOCAL_SETUP)
    return "cuda:0" if wanted == "cuda" else wanted


def _used(devices: tuple[Device, ...], chosen: str) -> tuple[Device, ...]:
    return tuple(device for device in devices if device.kind == chosen.partition(":")[0])


def _device_memory_bytes(devices: tuple[Device, ...], chosen: str, percent: int) -> int | None:
    """For weights, on a device with memory of its own: the rest is for what a render needs besides.  None: unknown."""
    used = _used(devices, chosen)
    if chosen.partition(":")[0] != "cuda" or not used or used[0].memory_mib is None:
        return None
    return (used[0].memory_mib << 20) * percent // 100


def _offered(model: LocalModel, directory: Directory, renderer: Renderer, own_peer: str) -> OfferedModel:
    learned = directory.speeds.of(own_peer)
    speeds = []
    if learned is not None:
        for (of, precision, _), speed in learned.speeds.items():
            if of == model.id:
                side = max(8, int(speed.pixels**0.5))
                speeds.append(Speed(side, speed.pixels // side, precision, speed.step_us, speed.fixed_us))
    return OfferedModel(
        id=model.id,
        name=model.name,
        family=model.family,
        state="resident" if model.id in renderer.resident else "disk",
        native=model.native,
        load_us=learned.load_us.get(model.id) if learned else None,
        speeds=tuple(speeds[-MAX_ADVERTISED_SPEEDS:]),
        total_bytes=model.bytes,
    )
