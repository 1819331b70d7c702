"""A swarm of real peers: N `python -m peer up` processes on loopback that all know each other."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from protocol.policy.neighbours import CONNECTIONS

from . import journals, processes
from .net import Network
from .run_folder import temporary_folder

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
PORT = 4001  # of each peer with an address of its own
# A swarm in which not all can be connected is ready once each has measured so many.
MANY_KNOWN = CONNECTIONS * 3 // 4
MAX_PEERS = 200  # of some 100 MB each: more than that belongs in the simulation
_POLL_S = 0.05
_WATCH_S = 0.5
_TOLD_LINES = 5  # of a failed peer's output, in the sentence for the person


class SwarmError(Exception):
    """A peer of the testnet did not start, left, or did not get to know the others: which, and its last words."""


def _silent(_: str) -> None:
    pass


async def _as_it_is(_: "Peer") -> None:
    pass


@dataclass(frozen=True)
class PeerSettings:
    """One peer; `variables` go into its environment.

    Peers that start `alone` do so first, know nobody yet, and are prepared (SwarmConfig.prepare) before the others
    start.
    """

    name: str
    provides: bool = True
    alone: bool = False
    models: tuple[Path, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SwarmConfig:
    """`peers` processes, of which the first `providers` provide (None: all); or those that `each` states."""

    peers: int = 5
    providers: int | None = None
    home: Path | None = None  # None: a temporary folder that goes with the swarm, unless it failed
    models: tuple[Path, ...] = ()
    command: tuple[str, ...] = (sys.executable, "-m", "peer")  # what `up` and its options follow
    ready_within_s: float = 60.0  # from the first start; a loaded two-core machine starts five peers in 15
    on_progress: Callable[[str], None] = _silent  # given whole sentences
    each: tuple[PeerSettings, ...] = ()
    prepare: Callable[["Peer"], Awaitable[None]] = _as_it_is

    def __post_init__(self) -> None:
        if self.each and len(self.each) != self.peers:
            raise ValueError(f"{self.peers} peers, but settings for {len(self.each)}")
        if self.each and all(settings.alone for settings in self.each):
            raise ValueError("one peer must start last, to bring the others together")
        if not 1 <= self.peers <= MAX_PEERS:
            raise ValueError(f"a testnet has 1 to {MAX_PEERS} peers, not {self.peers}")
        if self.providers is not None and not 0 <= self.providers <= self.peers:
            raise ValueError(f"of {self.peers} peers, 0 to {self.peers} can provide, not {self.providers}")

    @property
    def settings(self) -> tuple[PeerSettings, ...]:
        providing = self.peers if self.providers is None else self.providers
        return self.each or tuple(
            PeerSettings(f"p{index}", index < providing, models=self.models) for index in range(self.peers)
        )


@dataclass
class Peer:
    """One peer process; what is known of it comes from its journal."""

    index: int
    home: Path
    settings: PeerSettings
    journal: journals.Follower
    command: list[str]
    namespace: int | None = None  # descriptor of the network namespace it lives in
    peer_id: str = ""
    name: str = ""
    address: str = ""  # ready for --join
    known: set[str] = field(default_factory=set)  # ids of the peers whose advert and RTT it has
    _process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def provides(self) -> bool:
        return self.settings.provides

    def join(self, addresses: Iterable[str]) -> None:
        """Before its launch."""
        for address in addresses:
            self.command += ["--join", address]

    def launch(self) -> None:
        """Starts it, or starts it again; in the main thread."""
        self.known.clear()
        self._process = processes.start(
            self.command,
            folder=ROOT,
            output=self.output,
            namespace=self.namespace,
            variables=self.settings.variables,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> Path:
        return self.home.with_suffix(".log")

    async def run_cli(
        self, arguments: list[str], *, show_progress: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """`python -m peer COMMAND --home HOME ...`, text out; with `show_progress` its stderr goes to ours."""
        command, *rest = arguments
        return await run_peer_command(
            [command, "--home", str(self.home), *rest],
            show_progress=show_progress,
            namespace=self.namespace,
        )

    def read_journal(self) -> None:
        for entry in self.journal.new_entries():
            self._on_entry(entry)

    def _on_entry(self, entry: dict[str, Any]) -> None:
        match entry:
            case {"event": "started", "peer": str(peer)}:
                self.peer_id, self.name = peer, str(entry.get("name", ""))
            case {"event": "listening", "addresses": [str(address), *_]}:
                self.address = address if "/p2p/" in address else f"{address}/p2p/{self.peer_id}"
            case {"event": "peer_known", "peer": str(peer)}:
                self.known.add(peer)
            case {"event": "left", "peer": str(peer)}:
                self.known.discard(peer)

    def check_running(self) -> None:
        """SwarmError if it has left."""
        if (code := self.process.poll()) is not None:
            raise SwarmError(f"Peer {self.settings.name} left with exit code {code}.{self.last_words()}")

    def last_words(self) -> str:
        lines = journals.last_lines(self.output, _TOLD_LINES) or journals.last_lines(
            self.journal.path, _TOLD_LINES
        )
        return (
            f" Its last lines, of {self.output}:\n" + "\n".join(f"  {line}" for line in lines)
            if lines
            else ""
        )


@dataclass(frozen=True)
class Swarm:
    home: Path
    peers: tuple[Peer, ...]
    ready_us: int  # from the last start until everyone knew everyone
    up_us: int = 0  # from the first start until then

    def restart(self, peer: Peer) -> None:
        """Starts a peer whose process has ended; it joins those that are there.  In the main thread."""
        there = [each.address for each in self.peers if each is not peer and each.process.poll() is None]
        peer.join(there)
        peer.launch()
        processes.record(self.home, [each.process for each in self.peers])

    async def wait_peer_left(self) -> None:
        """Returns never; SwarmError when a peer's process has ended."""
        while True:
            for peer in self.peers:
                peer.check_running()
            await trio.sleep(_WATCH_S)


async def run_peer_command(
    arguments: list[str], *, show_progress: bool = False, namespace: int | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m peer ...`, text out, whatever its exit code; ended with the caller's scope."""
    command = processes.inside(namespace, [sys.executable, "-m", "peer", *arguments])
    # Files and not pipes: a command that is cancelled still has its last words to say.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = await trio.run_process(
            command,
            pass_fds=() if namespace is None else (namespace,),
            cwd=ROOT,
            env=processes.environment() | _screen(),
            stdout=out,
            stderr=None if show_progress else err,
            check=False,
            start_new_session=True,  # Ctrl-C comes to it through us, once
        )
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            done.args, done.returncode, out.read().decode(), err.read().decode(errors="replace")
        )


def _screen() -> dict[str, str]:
    """What it prints is shown by us: as wide as our terminal, if we have one."""
    return {"COLUMNS": str(os.get_terminal_size(1).columns)} if os.isatty(1) else {}


@asynccontextmanager
async def swarm(config: SwarmConfig, network: Network | None = None) -> AsyncIterator[Swarm]:
    """Peers that all know each other, and none of their processes afterwards; SwarmError, processes.AlreadyUp.

    Peer i is host i of `network`; without one they are all on loopback.
    """
    home = temporary_folder() if config.home is None else _swept(config.home.resolve(), config.on_progress)
    peers: list[Peer] = []
    failed = False
    started_s = trio.current_time()
    try:
        ready_us = await _start(config, home, peers, network)
        yield Swarm(home, tuple(peers), ready_us, round((trio.current_time() - started_s) * 1e6))
    except Exception:  # not a cancellation: that is how a swarm may well end
        failed = True
        raise
    finally:
        with trio.CancelScope(shield=True):
            await processes.stop(peer.process for peer in peers)
        processes.forget(home)
        if failed:
            config.on_progress(f"What the peers wrote is kept in {home}.")
        elif config.home is None:
            shutil.rmtree(home)


def _swept(home: Path, tell: Callable[[str], None]) -> Path:
    try:
        home.mkdir(parents=True, exist_ok=True)
        left = processes.sweep(home)
    except OSError as exc:
        raise SwarmError(f"{home} cannot be where peers live: {exc.strerror}.") from exc
    if left:
        tell(f"Ended {len(left)} processes that an earlier testnet in {home} had left behind.")
    return home


async def _start(config: SwarmConfig, home: Path, peers: list[Peer], network: Network | None) -> int:
    """Fills `peers`, each once it is started; microseconds from the last start until all knew all.

    The first peer that does not start alone is the bootstrap peer: it joins those that did, and the others join it.
    """
    clock = trio.current_time
    give_up_s = clock() + config.ready_within_s
    planned = [_peer(config, home, index, network) for index in range(config.peers)]
    alone = [peer for peer in planned if peer.settings.alone]
    bootstrap, *others = [peer for peer in planned if not peer.settings.alone]

    def launch(starting: list[Peer]) -> None:
        for peer in starting:
            peer.launch()
            peers.append(peer)
            processes.record(home, [peer.process for peer in peers])

    if alone:
        launch(alone)
        await _wait(peers, lambda: all(peer.address for peer in alone), give_up_s, "to listen")
        config.on_progress(f"{len(alone)} of {config.peers} peers started; preparing them.")
        async with trio.open_nursery() as nursery:
            for peer in alone:
                nursery.start_soon(config.prepare, peer)
        give_up_s = clock() + config.ready_within_s
    bootstrap.join(peer.address for peer in alone)
    if network is None:
        launch([bootstrap])
        config.on_progress(f"{len(peers)} of {config.peers} peers started; waiting for an address.")
        await _wait(peers, lambda: bool(bootstrap.address), give_up_s, "to listen")
        address = bootstrap.address
    else:  # its address is known, and its key can be made beforehand
        own_id = await run_peer_command(["id", "--home", str(bootstrap.home)])
        if own_id.returncode != 0:
            raise SwarmError(f"Peer {bootstrap.settings.name} has no key. {own_id.stderr.strip()}")
        address = f"{_listen(network, bootstrap.index)}/p2p/{own_id.stdout.strip()}"
        launch([bootstrap])
    for peer in others:
        peer.join([address])
    launch(others)
    peers.sort(key=lambda peer: peer.index)
    started_s = clock()
    told = 0

    def all_known() -> bool:
        nonlocal told
        ids = {peer.peer_id for peer in peers}
        ready = sum(bool(peer.address) and _knows_enough(peer, ids) for peer in peers)
        if ready > told:
            told = ready
            config.on_progress(f"{ready} of {len(peers)} peers know all the others.")
        return ready == len(peers) and "" not in ids

    config.on_progress(f"{len(peers)} of {len(peers)} peers started.")
    await _wait(peers, all_known, give_up_s, "to know all the others")
    return round((clock() - started_s) * 1e6)


def _knows_enough(peer: Peer, ids: set[str]) -> bool:
    """All of `ids`; where they are more than it stays connected to, most of those."""
    others = ids - {peer.peer_id}
    return others <= peer.known if len(others) <= CONNECTIONS else len(peer.known) >= MANY_KNOWN


def _peer(config: SwarmConfig, home: Path, index: int, network: Network | None) -> Peer:
    settings = config.settings[index]
    own_home = home / settings.name
    journal = journals.Follower(own_home / journals.FILE)
    command = [*config.command, "up", "--home", str(own_home), "--name", settings.name]
    command += ["--listen", _listen(network, index)]
    if settings.provides:
        command.append("--provide")
    for model in settings.models:
        command += ["--model", str(model)]
    namespace = None if network is None else network.namespace(index)
    return Peer(index, own_home, settings, journal, command, namespace)


def _listen(network: Network | None, index: int) -> str:
    return LOOPBACK if network is None else f"/ip4/{network.address(index)}/tcp/{PORT}"


async def _wait(peers: list[Peer], condition: Callable[[], bool], give_up_s: float, what: str) -> None:
    while True:
        for peer in peers:
            peer.read_journal()
            peer.check_running()
        if condition():
            return
        if trio.current_time() > give_up_s:
            raise SwarmError(_late(peers, what))
        await trio.sleep(_POLL_S)


def _late(peers: list[Peer], what: str) -> str:
    ids = {peer.peer_id for peer in peers if peer.peer_id}
    late = next((peer for peer in peers if not peer.address or not _knows_enough(peer, ids)), peers[0])
    missing = [peer.settings.name for peer in peers if peer is not late and peer.peer_id not in late.known]
    lacks = f" (it lacks {', '.join(missing)})" if missing and late.address else ""
    return f"Peer {late.settings.name} took too long {what}{lacks}.{late.last_words()}"
