"""A swarm of real peers: N `python -m peer up` processes on loopback that all know each other."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from . import journals, processes

ROOT = Path(__file__).resolve().parents[1]
MAX_PEERS = 200  # of some 100 MB each: more than that belongs in the simulation
_POLL_S = 0.05
_WATCH_S = 0.5
_TOLD_LINES = 5  # of a failed peer's output, in the sentence for the person


class SwarmError(Exception):
    """A peer of the testnet did not start, left, or did not get to know the others: which, and its last words."""


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class SwarmConfig:
    """`peers` processes, of which the first `providers` provide (None: all)."""

    peers: int = 5
    providers: int | None = None
    home: Path | None = None  # None: a temporary folder that goes with the swarm, unless it failed
    models: tuple[Path, ...] = ()
    command: tuple[str, ...] = (sys.executable, "-m", "peer")  # what `up` and its options follow
    ready_within_s: float = 60.0  # from the first start; a loaded two-core machine starts five peers in 15
    on_progress: Callable[[str], None] = _silent  # given whole sentences

    def __post_init__(self) -> None:
        if not 1 <= self.peers <= MAX_PEERS:
            raise ValueError(f"a testnet has 1 to {MAX_PEERS} peers, not {self.peers}")
        if self.providers is not None and not 0 <= self.providers <= self.peers:
            raise ValueError(f"of {self.peers} peers, 0 to {self.peers} can provide, not {self.providers}")

    @property
    def providing(self) -> int:
        return self.peers if self.providers is None else self.providers


@dataclass
class Peer:
    """One peer process; what is known of it comes from its journal."""

    index: int
    home: Path
    provides: bool
    journal: journals.Follower
    process: subprocess.Popen[bytes]
    peer_id: str = ""
    name: str = ""
    address: str = ""  # ready for --join
    known: set[str] = field(default_factory=set)  # ids of the peers whose advert and RTT it has

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
        return await run_peer_command([command, "--home", str(self.home), *rest], show_progress=show_progress)

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

    def check_running(self) -> None:
        """SwarmError if it has left."""
        if (code := self.process.poll()) is not None:
            raise SwarmError(f"Peer p{self.index} left with exit code {code}.{self.last_words()}")

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

    async def wait_peer_left(self) -> None:
        """Returns never; SwarmError when a peer's process has ended."""
        while True:
            for peer in self.peers:
                peer.check_running()
            await trio.sleep(_WATCH_S)


async def run_peer_command(
    arguments: list[str], *, show_progress: bool = False
) -> subprocess.CompletedProcess[str]:
    """`python -m peer ...`, text out, whatever its exit code; ended with the caller's scope."""
    # Files and not pipes: a command that is cancelled still has its last words to say.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = await trio.run_process(
            [sys.executable, "-m", "peer", *arguments],
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
async def swarm(config: SwarmConfig) -> AsyncIterator[Swarm]:
    """Peers that all know each other, and none of their processes afterwards; SwarmError, processes.AlreadyUp."""
    home = Path(tempfile.mkdtemp(prefix="nearlight-")) if config.home is None else config.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    if left := processes.sweep(home):
        config.on_progress(f"Ended {len(left)} processes that an earlier testnet in {home} had left behind.")
    peers: list[Peer] = []
    failed = False
    try:
        ready_us = await _start(config, home, peers)
        yield Swarm(home, tuple(peers), ready_us)
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


async def _start(config: SwarmConfig, home: Path, peers: list[Peer]) -> int:
    """Appends every peer to `peers` as it starts; microseconds from the last start until all knew all."""
    clock = trio.current_time
    give_up_s = clock() + config.ready_within_s
    for index in range(config.peers):
        if index == 1:  # the others need the first one's address
            config.on_progress(f"1 of {config.peers} peers started; waiting for its address.")
            await _wait(peers, lambda: bool(peers[0].address), give_up_s, "to listen")
        peers.append(_start_peer(config, home, index, join=peers[0].address if peers else None))
        processes.record(home, [peer.process for peer in peers])
    started_s = clock()
    told = 0

    def all_known() -> bool:
        nonlocal told
        ids = {peer.peer_id for peer in peers}
        ready = sum(bool(peer.address) and ids - {peer.peer_id} <= peer.known for peer in peers)
        if ready > told:
            told = ready
            config.on_progress(f"{ready} of {len(peers)} peers know all the others.")
        return ready == len(peers) and "" not in ids

    config.on_progress(f"{len(peers)} of {len(peers)} peers started.")
    await _wait(peers, all_known, give_up_s, "to know all the others")
    return round((clock() - started_s) * 1e6)


def _start_peer(config: SwarmConfig, home: Path, index: int, join: str | None) -> Peer:
    own_home = home / f"p{index}"
    journal = journals.Follower(own_home / journals.FILE)
    provides = index < config.providing
    command = [*config.command, "up", "--home", str(own_home), "--name", f"p{index}"]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0"]
    if join is not None:
        command += ["--join", join]
    if provides:
        command.append("--provide")
    for model in config.models:
        command += ["--model", str(model)]
    process = processes.start(command, folder=ROOT, output=own_home.with_suffix(".log"))
    return Peer(index, own_home, provides, journal, process)


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
    late = next((peer for peer in peers if not peer.address or ids - {peer.peer_id} - peer.known), peers[0])
    missing = [f"p{peer.index}" for peer in peers if peer is not late and peer.peer_id not in late.known]
    lacks = f" (it lacks {', '.join(missing)})" if missing and late.address else ""
    return f"Peer p{late.index} took too long {what}{lacks}.{late.last_words()}"
