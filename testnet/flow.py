"""One TCP flow over an emulated network, made by this process: what of a line's rate it gets, and what the router takes.

`python -m testnet goodput` measures it beside real peers that live on the same network.
"""

import argparse
import json
import os
import socket
import statistics
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

import trio

from . import playing, processes, topology, tun
from .failed import NOT_DONE, failed
from .net import MAX_HOSTS, CannotEmulate, Network, RouterDied, open_network
from .run_folder import PEERS, run_folder, tidy
from .swarm import SwarmConfig, SwarmError, swarm

PORT = 9000
SLOW_START_S = 1.0
SECONDS = 3
PIECE_BYTES = 65_536
LEAST_SHARE = 0.9  # of the rate
MOST_CORES = 0.5


class Second(NamedTuple):
    goodput_bits_s: float
    router_cores: float  # the router's share of a core meanwhile


@dataclass(frozen=True)
class Goodput:
    """Medians over the seconds of one flow among `peers` real peers."""

    peers: int
    rtt_ms: float
    rate_mbit_s: float
    share: float  # of the rate
    router_cores: float
    load_average: float

    @property
    def ok(self) -> bool:
        return self.share >= LEAST_SHARE and self.router_cores <= MOST_CORES


def inside(network: Network, host: int, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket belongs to the namespace it was made in, wherever it is used."""
    home = tun.own_namespace()
    tun.enter(network.namespace(host))
    try:
        return make()
    finally:
        tun.enter(home)
        os.close(home)


@asynccontextmanager
async def connected(
    network: Network, client: int, server: int
) -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Both ends of a connection from the host `client` to the host `server`."""
    made = inside(network, server, lambda: socket.create_server((network.address(server), PORT)))
    made.setblocking(False)
    listening = trio.SocketListener(trio.socket.from_stdlib_socket(made))
    made = inside(network, client, socket.socket)
    made.setblocking(False)
    near = trio.SocketStream(trio.socket.from_stdlib_socket(made))
    async with near:
        async with listening:
            await near.socket.connect((network.address(server), PORT))
            far = await listening.accept()
        async with far:
            for stream in (near, far):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield near, far


async def flow(network: Network, source: int, destination: int, *, seconds: int = SECONDS) -> list[Second]:
    """One flow, second by second, after slow start."""
    received = 0
    measured = []
    async with connected(network, source, destination) as (near, far), trio.open_nursery() as nursery:

        async def send() -> None:
            while True:
                await near.send_all(bytes(PIECE_BYTES))

        async def receive() -> None:
            nonlocal received
            while True:
                received += len(await far.receive_some(1 << 20))

        nursery.start_soon(send)
        nursery.start_soon(receive)
        await trio.sleep(SLOW_START_S)
        for _ in range(seconds):
            before, at = await network.statistics(), received
            await trio.sleep(1)
            after, now = await network.statistics(), received
            elapsed_s = (after["at_ns"] - before["at_ns"]) / 1e9
            cpu_s = after["cpu_s"] - before["cpu_s"]
            measured.append(Second((now - at) * 8 / elapsed_s, cpu_s / elapsed_s))
        nursery.cancel_scope.cancel()
    return measured


async def among_peers(peers: int, rtt_ms: float, rate_mbit_s: float) -> Goodput:
    """A flow from the first to the last of `peers` real peers, all equally far from each other.

    CannotEmulate, SwarmError, RouterDied.
    """
    world = topology.uniform(_us(rtt_ms), _bits_s(rate_mbit_s))
    with run_folder(None) as folder:
        async with open_network(world, ["there"] * peers, folder=folder, seed=0) as network:
            processes.record(folder, [network.router])
            config = SwarmConfig(peers=peers, home=folder / PEERS, on_progress=playing.tell)
            async with swarm(config, network):
                seconds = await flow(network, 0, peers - 1)
    return Goodput(
        peers=peers,
        rtt_ms=rtt_ms,
        rate_mbit_s=rate_mbit_s,
        share=statistics.median(each.goodput_bits_s for each in seconds) / _bits_s(rate_mbit_s),
        router_cores=statistics.median(each.router_cores for each in seconds),
        load_average=os.getloadavg()[0],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", type=int, default=12, metavar="N", help="real peers beside the flow (12)")
    parser.add_argument(
        "--rtt-ms", type=float, default=30, metavar="MS", help="round trip between any two (30)"
    )
    parser.add_argument("--rate", type=float, default=100, metavar="MBIT/S", help="of each peer's line (100)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def why_not(options: argparse.Namespace) -> str | None:
    """What is wrong with the arguments: a sentence."""
    if not 2 <= options.peers <= MAX_HOSTS:
        return f"--peers must be 2 to {MAX_HOSTS}, not {options.peers}."
    try:
        topology.uniform(_us(options.rtt_ms), _bits_s(options.rate)).path("there", "there")
    except (ValueError, OverflowError) as exc:
        return f"There is no such link: {exc}."
    return None


def _us(ms: float) -> int:
    return round(ms * 1000)


def _bits_s(mbit_s: float) -> int:
    return round(mbit_s * 1e6)


async def goodput(options: argparse.Namespace) -> int:
    """Exit code: 0 where the flow gets its rate and the router takes no more than it may."""
    await tidy(playing.tell)
    found, problem = None, ""
    try:
        found = await among_peers(options.peers, options.rtt_ms, options.rate)
    except* (CannotEmulate, SwarmError, RouterDied, processes.AlreadyUp, processes.OrphansLeft) as group:
        problem = playing.first(group)
    if found is None:
        return failed(problem, NOT_DONE, as_json=options.json)
    sentence = (
        f"Among {found.peers} peers, {found.rtt_ms:g} ms apart, one TCP flow gets {found.share:.1%} of "
        f"{found.rate_mbit_s:g} Mbit/s; the router takes {found.router_cores:.0%} of a core "
        f"(load average {found.load_average:.1f})."
    )
    print(sentence, flush=True)
    if options.json:
        print(json.dumps({**asdict(found), "ok": found.ok}), flush=True)
    return 0 if found.ok else NOT_DONE
