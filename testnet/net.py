"""An emulated network: each host in a network namespace of its own, and one router process between them.

Nothing of it has a name in the system.  The namespaces and TUN devices belong to the processes in them and to the
router; when those are gone - and all of them are on the leash - so are they.  `nsenter --net=/proc/PID/ns/net` is the
way into the namespace of the peer PID.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path as FilePath
from typing import Any

import trio

from . import processes
from .link import Line, Path
from .router import Setup, host_address
from .topology import Topology
from .tun import CannotEmulate

__all__ = ["CannotEmulate", "Network", "RouterDied", "open_network"]

RECORD = "packets"
READY_WITHIN_S = 20.0
ANSWER_WITHIN_S = 10.0
MAX_HOSTS = 200
_ANSWER_BYTES = 1 << 16
_FOLDER = FilePath(__file__).resolve().parents[1]


class RouterDied(Exception):
    """The router process ended: no packet moves any more."""

    def __init__(self, sentence: str = "The router process ended: no packet moves any more.") -> None:
        super().__init__(sentence)


class Network:
    """Hosts 0, 1, ... at places of a topology; their links can be changed while packets are under way."""

    def __init__(
        self,
        topology: Topology,
        places: Sequence[str],
        namespaces: list[int],
        control: trio.SocketStream,
        router: subprocess.Popen[bytes],
        record: FilePath,
    ) -> None:
        self.topology = topology
        self.places = tuple(places)
        self.record = record
        self.router = router
        self._namespaces = namespaces
        self._control = control
        self._unread = b""
        self._asking = trio.Lock()
        self._paths: dict[tuple[int, int], Path] = {}
        self._lines: dict[int, tuple[Line, Line]] = {}

    def address(self, host: int) -> str:
        return host_address(host)

    def namespace(self, host: int) -> int:
        """The descriptor to start a process with (processes.start)."""
        return self._namespaces[host]

    def path(self, source: int, destination: int) -> Path:
        """As it is now."""
        return self._paths[source, destination]

    def lines(self, host: int) -> tuple[Line, Line]:
        """Up and down, as they are now."""
        return self._lines[host]

    async def change(
        self,
        paths: Mapping[tuple[int, int], Path],
        lines: Mapping[int, tuple[Line, Line]] | None = None,
    ) -> dict[str, Any]:
        """Paths by (source, destination), lines by host as (up, down); they hold when this returns."""
        message = {
            "paths": [[a, b, asdict(path)] for (a, b), path in paths.items()],
            "lines": [[host, asdict(up), asdict(down)] for host, (up, down) in (lines or {}).items()],
        }
        answer = await self._ask(message)
        self._paths.update(paths)
        self._lines.update(lines or {})
        return answer

    def check_running(self) -> None:
        """RouterDied if the router process has ended."""
        if self.router.poll() is not None:
            raise RouterDied

    async def partition(self, groups: Sequence[Collection[int]]) -> None:
        """Nothing passes between hosts of different groups; hosts that no group names are one more group."""
        group = {host: number for number, hosts in enumerate(groups) for host in hosts}
        cut = {
            pair: replace(path, cut=True)
            for pair, path in self._paths.items()
            if group.get(pair[0], -1) != group.get(pair[1], -1)
        }
        await self.change(cut)

    async def heal(self) -> None:
        """All links are as the topology has them."""
        await self.change(self._of_topology(), self._lines_of_topology())

    async def degrade(
        self,
        hosts: Collection[int],
        *,
        to: Collection[int] = (),
        more_delay_us: int = 0,
        loss_millionths: int | None = None,
        up: Line | None = None,
        down: Line | None = None,
    ) -> None:
        """Every path between these hosts and those of `to` (none: all), and their lines, worse than now until `heal`."""
        others = to or range(len(self.places))
        paths = {
            pair: replace(
                path,
                delay_us=path.delay_us + more_delay_us,
                loss_millionths=path.loss_millionths if loss_millionths is None else loss_millionths,
            )
            for pair, path in self._paths.items()
            if (pair[0] in hosts and pair[1] in others) or (pair[1] in hosts and pair[0] in others)
        }
        lines = {host: (up or self._lines[host][0], down or self._lines[host][1]) for host in hosts}
        await self.change(paths, lines)

    async def statistics(self) -> dict[str, Any]:
        """at_ns, cpu_s, latest_us (worst lateness), refused, sent, bytes, fates; the record is whole until at_ns."""
        return await self._ask({})

    def _of_topology(self) -> dict[tuple[int, int], Path]:
        hosts = list(enumerate(self.places))
        return {(a, b): self.topology.path(at, to) for a, at in hosts for b, to in hosts if a != b}

    def _lines_of_topology(self) -> dict[int, tuple[Line, Line]]:
        places = [self.topology.place(name) for name in self.places]
        return {host: (place.up, place.down) for host, place in enumerate(places)}

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        async with self._asking:
            try:
                with trio.fail_after(ANSWER_WITHIN_S):
                    await self._control.send_all(json.dumps(message).encode() + b"\n")
                    while b"\n" not in self._unread:
                        data = await self._control.receive_some(_ANSWER_BYTES)
                        if not data:
                            raise RouterDied
                        self._unread += data
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise RouterDied from exc
            except trio.TooSlowError as exc:
                raise RouterDied(f"The router process has not answered for {ANSWER_WITHIN_S:g} s.") from exc
            line, _, self._unread = self._unread.partition(b"\n")
            answer: dict[str, Any] = json.loads(line)
            return answer


@asynccontextmanager
async def open_network(
    topology: Topology, places: Sequence[str], *, folder: FilePath, seed: int = 1
) -> AsyncIterator[Network]:
    """A host at each of `places`; the record of packets is in `folder`.  CannotEmulate says what is missing.

    Call it in the main thread.
    """
    if not 1 <= len(places) <= MAX_HOSTS:
        raise ValueError(f"an emulated network has 1 to {MAX_HOSTS} hosts, not {len(places)}")
    for place in places:
        topology.place(place)
    record = folder / RECORD
    record.unlink(missing_ok=True)
    ours, theirs = socket.socketpair()
    namespaces: list[int] = []
    with theirs:
        router = processes.start(
            [sys.executable, "-m", "testnet.router", "--fd", str(theirs.fileno())],
            folder=_FOLDER,
            output=folder / "router.log",
            descriptors=(theirs.fileno(),),
        )
    try:
        setup = Setup(len(places), seed, str(record))
        namespaces = await trio.to_thread.run_sync(_set_up, ours, setup)
        ours.setblocking(False)
        control = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        network = Network(topology, places, namespaces, control, router, record)
        await network.heal()
        yield network
    finally:
        ours.close()
        for namespace in namespaces:
            os.close(namespace)
        with trio.CancelScope(shield=True):
            await processes.stop([router])


def _set_up(control: socket.socket, setup: Setup) -> list[int]:
    control.settimeout(READY_WITHIN_S)
    control.sendall(json.dumps(asdict(setup)).encode() + b"\n")
    try:
        data, namespaces, _, _ = socket.recv_fds(control, _ANSWER_BYTES, MAX_HOSTS)
    except TimeoutError:
        raise CannotEmulate(
            f"Links cannot be emulated here: the router process was not ready in {READY_WITHIN_S:g} s."
        ) from None
    answer = json.loads(data) if data else {"cannot": "the router process ended while it started"}
    if "cannot" in answer:
        for each in namespaces:
            os.close(each)
        raise CannotEmulate(f"Links cannot be emulated here: {answer['cannot']}.")
    for each in namespaces:
        os.set_inheritable(each, False)
    return namespaces
