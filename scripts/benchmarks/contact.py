"""What staying in touch takes, on each side: a ping with its answer, live state told unasked, a connection; prints JSON.

One peer that provides and four that ask it, a process each, over real connections.  Phases take turns: nothing; each asks
so often; each is told so often; each closes its connection and opens it anew.
"""

import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import trio

from peer.clock import now_us
from peer.host import Host, HostConfig, open_host
from peer.link import Links
from protocol.policy.directory import Directory
from protocol.wire.advert import Advert, Device, SignedAdvert
from protocol.wire.hello import MODEL_ID_BYTES, LiveState
from protocol.wire.identity import KEY_BYTES, peer_id_of, public_key_of

from .child import Child, child
from .idle import loopback_bytes, raise_loopback

NETWORK = "contact"
PROVIDER_KEY = bytes(KEY_BYTES)
ASKERS = 4
EVERY_S = 0.04  # of each asker: as often as `simulate` says at load .6
DIAL_EVERY_S = 0.75  # time for the pings of a link that opens
PHASE_S = 3.0
WITHIN_US = 5_000_000
RESIDENT = tuple(bytes([number]) * MODEL_ID_BYTES for number in (1, 2))
WAITS_US = 1_000_000, 3_000_000  # each is news after the other
PHASES = "quiet", "asked", "told", "dialled"


class _Peer:
    """Links, and what is done with them in a phase."""

    def __init__(
        self, host: Host, links: Links, heard: Counter[str], provider: str | None, address: str
    ) -> None:
        """`provider`: whom it asks, at `address`; None: it is the one that is asked."""
        self.wait_us = WAITS_US[0]
        self._host, self._links, self._heard = host, links, heard
        self._provider, self._address = provider, address

    async def phase(self, kind: str) -> dict[str, float]:
        """How much of `kind` there was, and what it took of a core here."""
        if self._provider is not None:
            self._links.stay_active()
            self._links.on_plan([self._provider])
        heard, cpu_s, began_s = self._heard.total(), time.process_time(), trio.current_time()
        every_s = DIAL_EVERY_S if kind == "dialled" else EVERY_S
        turns = round(PHASE_S / every_s)
        for turn in range(turns):
            await trio.sleep_until(began_s + turn * every_s)
            await self._turn(kind)
        await trio.sleep_until(began_s + PHASE_S)
        count = turns if kind == "dialled" else self._heard.total() - heard
        return {"cpu_s": time.process_time() - cpu_s, "count": count if self._provider else 0}

    async def _turn(self, kind: str) -> None:
        if self._provider is None:
            if kind == "told":
                self.wait_us = sum(WAITS_US) - self.wait_us
                self._links.on_work()
        elif kind == "asked":
            await self._links.look([self._provider], WITHIN_US)
        elif kind == "dialled":
            await self._host.disconnect(self._provider)
            await self.meet()

    async def meet(self) -> None:
        assert self._provider is not None
        await self._host.dial(self._address)
        await self._links.wait_session(self._provider, WITHIN_US / 1e6)


class _Counting(Directory):
    """Counts the live state that is heard."""

    heard: Counter[str]

    def on_state(self, peer: str, state: LiveState, now_us: int) -> None:
        self.heard[peer] += 1
        super().on_state(peer, state, now_us)


async def serve(address: str | None) -> None:
    """Answers lines: {"phase": kind}.  `address`: of the one that is asked; None: this is the one."""
    key = secrets.token_bytes(KEY_BYTES) if address else PROVIDER_KEY
    provider = peer_id_of(public_key_of(PROVIDER_KEY)) if address else None
    directory = _Counting(peer_id_of(public_key_of(key)))
    directory.heard = Counter()

    def on_connected(other: str) -> None:
        directory.on_connected(other)
        nursery.start_soon(links.open, other)

    async with (
        trio.open_nursery() as nursery,
        open_host(
            key,
            HostConfig(listen=("/ip4/127.0.0.1/tcp/0",)),
            on_peer_connected=on_connected,
            on_peer_disconnected=lambda other: links.on_disconnected(other),
            on_handler_error=lambda other, protocol, error: print(error, file=sys.stderr),
        ) as host,
    ):
        links = Links(
            host,
            directory,
            network=NETWORK,
            state=lambda other: None if provider else LiveState(peer.wait_us, 1, 2, 1024, RESIDENT),
            on_ready=lambda other: None,
            on_measured=lambda other: None,
            agent=NETWORK,
        )
        peer = _Peer(host, links, directory.heard, provider, address or "")
        if provider:
            directory.on_advert(_advert(), now_us(), time.time_ns() // 1000)
            await peer.meet()
        print(json.dumps({"address": host.addresses[0]}), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(await peer.phase(json.loads(line)["phase"])), flush=True)
        nursery.cancel_scope.cancel()


def _advert() -> SignedAdvert:
    issued_us = time.time_ns() // 1000
    devices = (Device("cpu", NETWORK, 1, None, None, None, ("fp32",)),)
    advert = Advert(NETWORK, 0, 0, issued_us, 600, (), ("txt2img",), devices, (), None)
    return SignedAdvert.sign(advert, network=NETWORK, private_key=PROVIDER_KEY)


async def measure(turns: int) -> dict[str, list[dict[str, float]]]:
    """By kind, of each turn: what one of them takes; bytes are those sent and received together by one side."""
    module = "scripts.benchmarks.contact"
    each: dict[str, list[dict[str, float]]] = {kind: [] for kind in PHASES[1:]}
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(child(module, "provide"))
        address = (await provider.read())["address"]
        askers = [await stack.enter_async_context(child(module, "ask", address)) for _ in range(ASKERS)]
        for asker in askers:
            await asker.read()

        async def spent(kind: str) -> tuple[float, list[float]]:
            """(how many, [bytes, seconds of a core of the provider's, of the askers'])"""
            before = loopback_bytes()
            answers = await _together([provider, *askers], {"phase": kind})
            cpu_s = [answer["cpu_s"] for answer in answers]
            count = sum(answer["count"] for answer in answers)
            return count, [loopback_bytes() - before, cpu_s[0], sum(cpu_s[1:])]

        # Dialled last: the younger a connection, the more ACKs.
        for kinds in [PHASES[1:-1]] * turns + [PHASES[-1:]] * turns:
            _, quiet = await spent(PHASES[0])
            for kind in kinds:
                count, busy = await spent(kind)
                bytes_, provider_s, asker_s = (
                    (now - then) / count for now, then in zip(busy, quiet, strict=True)
                )
                turn = {"bytes": bytes_, "provider_cpu_ms": 1e3 * provider_s, "asker_cpu_ms": 1e3 * asker_s}
                each[kind].append({name: round(value, 4) for name, value in turn.items()})
    return each


async def _together(children: Sequence[Child], question: dict[str, Any]) -> list[Any]:
    answers: list[Any] = [None] * len(children)

    async def ask(index: int) -> None:
        answers[index] = await children[index].ask(question)

    async with trio.open_nursery() as nursery:
        for index in range(len(children)):
            nursery.start_soon(ask, index)
    return answers


if __name__ == "__main__":
    if "--alone" in sys.argv[1:]:
        raise_loopback()
    match sys.argv[1:]:
        case ["provide"]:
            trio.run(serve, None)
        case ["ask", address]:
            trio.run(serve, address)
        case [turns, *_]:
            print(json.dumps(trio.run(measure, int(turns))))
