"""The processes of a testnet: started on a leash, written down, and ended by pid whatever happens."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import trio

STOP_WITHIN_S = 3  # a peer's own limit for a clean shutdown
ORPHANS_WITHIN_S = 2  # a renderer leaves within 1 s of its peer's death
_POLL_S = 0.02
_LEASH = Path(__file__).with_name("leash.py")
_INSIDE = Path(__file__).with_name("inside.py")
RECORD = "testnet.json"


class AlreadyUp(Exception):
    """A testnet, process PID, is up in HOME: stop it first, or give this one another folder."""

    def __init__(self, home: Path, pid: int) -> None:
        super().__init__(
            f"A testnet, process {pid}, is up in {home}: stop it first, or give this one another folder."
        )


class OrphansLeft(Exception):
    """Processes outlived the peer that had started them: their pids."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(f"The processes {pids} outlived the peer that had started them.")


@dataclass(frozen=True)
class Mark:
    """One process, and not another one that was given its pid later."""

    pid: int
    created_s: float  # psutil's create_time

    def alive(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created_s) > 0.02 or process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.NoSuchProcess:
            return None
        return process


def mark(pid: int) -> Mark:
    return Mark(pid, psutil.Process(pid).create_time())


def start(
    command: list[str],
    *,
    folder: Path,
    output: Path,
    errors: Path | None = None,
    namespace: int | None = None,
    descriptors: Iterable[int] = (),
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """A process in a session of its own that dies with this one; called in the main thread.

    It writes to `output`, and to `errors` what is for stderr if that is another file.  `namespace` is the descriptor
    of the network namespace it lives in, `descriptors` are those it inherits, `variables` go into its environment.
    """
    inherited = tuple(descriptors)
    if namespace is not None:
        command = inside(namespace, command)
        inherited = (*inherited, namespace)
    with output.open("ab") as out, (errors or output).open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *command],
            cwd=folder,
            env={**environment(), **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            pass_fds=inherited,
        )


def inside(namespace: int | None, command: list[str]) -> list[str]:
    """The command that runs `command` in the network namespace of that descriptor, which it must inherit."""
    if namespace is None:
        return command
    return [sys.executable, "-I", "-S", str(_INSIDE), str(namespace), *command]


def environment() -> dict[str, str]:
    """Ours, without the settings of the person's own peer: a testnet must not join their swarm."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEARLIGHT_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}


async def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to all, SIGKILL to those still there after `STOP_WITHIN_S`, and the same for what they had started."""
    running = [process for process in processes if process.poll() is None]
    orphans = [child for process in running for child in _descendants(process.pid)]
    for process in running:
        process.send_signal(signal.SIGTERM)
    await _wait_until(lambda: all(process.poll() is not None for process in running), STOP_WITHIN_S)
    for process in running:
        if process.poll() is None:
            orphans += _descendants(process.pid)
            process.kill()
        process.wait()
    await _wait_until(lambda: not any(orphan.alive() for orphan in orphans), ORPHANS_WITHIN_S)
    _kill(orphans)


async def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL; returns when it, and what it had started, is dead.  OrphansLeft if that does not come to pass."""
    children = _descendants(process.pid)
    process.kill()
    await trio.to_thread.run_sync(process.wait)
    await _wait_until(lambda: not any(child.alive() for child in children), ORPHANS_WITHIN_S)
    if left := _kill(children):
        raise OrphansLeft(left)


def signal_family(pid: int, number: signal.Signals) -> None:
    """A process and all that it has started: SIGSTOP and SIGCONT freeze and thaw a whole peer."""
    for each in [mark(pid), *_descendants(pid)]:
        if process := each.alive():
            process.send_signal(number)


async def _wait_until(condition: Callable[[], bool], within_s: float) -> None:
    """Returns when `condition` holds or the time is over, whichever comes first."""
    with trio.move_on_after(within_s):
        while not condition():  # noqa: ASYNC110 - a process tells no trio.Event
            await trio.sleep(_POLL_S)


def _descendants(pid: int) -> list[Mark]:
    try:
        return [
            Mark(child.pid, child.create_time()) for child in psutil.Process(pid).children(recursive=True)
        ]
    except psutil.NoSuchProcess:
        return []


def _kill(marks: Iterable[Mark]) -> list[int]:
    killed = []
    for each in marks:
        if process := each.alive():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
            killed.append(each.pid)
    return killed


def record(home: Path, processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Writes down which processes the testnet in `home` has, for `sweep`."""
    peers = [mark(process.pid) for process in processes if process.poll() is None]
    own = mark(os.getpid())
    value = {"testnet": [own.pid, own.created_s], "peers": [[each.pid, each.created_s] for each in peers]}
    new = home / (RECORD + ".new")
    new.write_text(json.dumps(value))
    new.replace(home / RECORD)


def forget(home: Path) -> None:
    (home / RECORD).unlink(missing_ok=True)


def sweep(home: Path) -> list[int]:
    """Kills what an earlier testnet in `home` left behind, with what that had started; the pids. AlreadyUp."""
    try:
        value = json.loads((home / RECORD).read_text())
        testnet = Mark(*value["testnet"])
        peers = [Mark(*each) for each in value["peers"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):  # cut short by a full disk: there is nothing to go by
        forget(home)
        return []
    if testnet.alive():
        raise AlreadyUp(home, testnet.pid)
    left = [each for each in peers if each.alive()]
    killed = _kill([child for each in left for child in _descendants(each.pid)] + left)
    forget(home)
    return killed
