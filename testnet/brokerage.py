"""Runs the broker and its workers as processes of an emulated network, and asks it for pictures."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from . import journals, processes
from .broker import READY
from .net import Network
from .swarm import ROOT, SwarmError

READY_WITHIN_S = 120.0  # all workers load their weights at once
_POLL_S = 0.05
_COMMAND = [sys.executable, "-m", "testnet.broker"]


@dataclass(frozen=True)
class Brokerage:
    network: Network
    host: int  # of the broker

    async def ask(
        self, host: int, *, prompt: str, steps: int, size_px: int, seed: int, returns: str, output: Path
    ) -> tuple[int, str]:
        """Microseconds from the asking until the picture was on disk, and the worker; SwarmError."""
        namespace = self.network.namespace(host)
        command = [*_COMMAND, "ask", "--broker", self.network.address(self.host)]
        command += ["--address", self.network.address(host), "--prompt", prompt, "--steps", str(steps)]
        command += [
            "--size",
            str(size_px),
            "--seed",
            str(seed),
            "--returns",
            returns,
            "--output",
            str(output),
        ]
        done = await trio.run_process(
            processes.inside(namespace, command),
            pass_fds=(namespace,),
            cwd=ROOT,
            env=processes.environment(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode != 0:
            raise SwarmError(f"The broker gave no picture. {done.stderr.decode(errors='replace')[-300:]}")
        answer = json.loads(done.stdout)
        return answer["wall_us"], answer["worker"]


@asynccontextmanager
async def open_brokerage(
    network: Network,
    host: int,
    workers: Sequence[tuple[int, str]],
    variables: Mapping[str, Mapping[str, str]],
    folder: Path,
) -> AsyncIterator[Brokerage]:
    """The broker at `host`, a worker at each (host, name) with its weights loaded; SwarmError.  In the main thread."""
    broker = network.address(host)
    started = [_start(network, host, "broker", ["serve", "--address", broker], {}, folder)]
    for number, name in workers:
        command = ["work", "--broker", broker, "--name", name]
        started.append(_start(network, number, f"{name}-worker", command, variables[name], folder))
    try:
        with trio.move_on_after(READY_WITHIN_S) as scope:
            while not all(READY in journals.last_lines(output, 5) for _, output in started):
                for process, output in started:
                    if process.poll() is not None:
                        last = " ".join(journals.last_lines(output, 3))
                        raise SwarmError(f"{output.stem} left with exit code {process.returncode}. {last}")
                await trio.sleep(_POLL_S)
        if scope.cancelled_caught:
            raise SwarmError(f"In {READY_WITHIN_S:g} s not every worker of the broker was ready.")
        yield Brokerage(network, host)
    finally:
        with trio.CancelScope(shield=True):
            await processes.stop(process for process, _ in started)


def _start(
    network: Network, host: int, name: str, command: list[str], variables: Mapping[str, str], folder: Path
) -> tuple[subprocess.Popen[bytes], Path]:
    output = folder / f"{name}.log"
    process = processes.start(
        [*_COMMAND, *command],
        folder=ROOT,
        output=output,
        namespace=network.namespace(host),
        variables=variables,
    )
    return process, output
