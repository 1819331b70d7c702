"""A peer's side of its renderer: started when first needed, restarted when it died, killed when it does not listen."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import trio

from protocol.errors import RemoteProtocolError
from protocol.wire.canonical import Value
from protocol.wire.frames import FrameReader, pack

from ..clock import now_us
from .messages import CANCEL_GRACE_S, MAX_PIPE_BYTES, RenderFailed

__all__ = ["RenderCancelled", "RenderFailed", "Rendered", "Renderer", "RendererDied", "Step"]

RECEIVE_BYTES = 1 << 20
EXIT_GRACE_S = 1.0  # from the end of its socket to the end of its process


class RendererDied(Exception):
    """The renderer process died: {reason}."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The renderer process died: {reason}.")
        self.reason = reason


class RenderCancelled(Exception):
    """The render was cancelled after {steps_done} steps."""

    def __init__(self, steps_done: int) -> None:
        super().__init__(f"The render was cancelled after {steps_done} steps.")
        self.steps_done = steps_done


@dataclass(frozen=True)
class Step:
    """Step `step` of `steps` is done and took `us`; `preview` is (width, height, raw RGB8), at most 64x64."""

    step: int
    steps: int
    us: int
    preview: tuple[int, int, bytes] | None


@dataclass(frozen=True)
class Rendered:
    """A finished picture: PNG bytes, pixel_hash, SHA-256 of the sigmas, and spans (name, start_us, us), monotonic."""

    file: bytes
    width: int
    height: int
    pixels: bytes
    sigmas: bytes
    steps_done: int
    spans: tuple[tuple[str, int, int], ...]


@dataclass
class _Call:
    """A load or a render under way: set `ended` once, with the result or the exception that ended it."""

    on_step: Callable[[Step], None] = lambda step: None
    on_started: Callable[[], None] = lambda: None
    ended: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    error: Exception | None = None
    steps_done: int = 0
    cancelled: bool = False
    spans: list[tuple[str, int, int]] = field(default_factory=list)

    def end(self, result: Any = None, error: Exception | None = None) -> None:
        if not self.ended.is_set():
            self.result, self.error = result, error
            self.ended.set()

    async def wait(self) -> Any:
        await self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.result


@dataclass
class _Child:
    """One renderer process and what was asked of it."""

    process: subprocess.Popen[bytes]
    stream: trio.SocketStream
    sending: trio.Lock = field(default_factory=trio.Lock)
    gone: trio.Event = field(default_factory=trio.Event)
    resident: dict[bytes, str] = field(default_factory=dict)  # model id: family
    weights_mib: dict[bytes, int] = field(default_factory=dict)
    loads: dict[bytes, _Call] = field(default_factory=dict)
    renders: dict[bytes, _Call] = field(default_factory=dict)
    why: str | None = None  # we killed it

    def kill(self, why: str) -> None:
        if self.process.poll() is None:
            self.why = self.why or why
            # Its own session: whatever it started goes with it.
            os.killpg(self.process.pid, signal.SIGKILL)

    async def send(self, message: Value) -> None:
        """Whole frames only: a send that is cut short would leave the pipe unreadable, so the process goes too."""
        async with self.sending:
            whole = False
            try:
                await self.stream.send_all(pack(message))
                whole = True
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.gone.wait()  # the reader ends every call with the reason
            finally:
                if not whole:
                    self.kill("a message to it was cut short")


class Renderer:
    """One device's renderer process.  Calls may come at any time while `run` runs."""

    def __init__(self, device: str, *, threads: int = 1) -> None:
        self.device = device
        self.environment = ""  # told by the process when it is first ready
        self.restarts = 0
        self._threads = threads
        self._starts = 0
        self._child: _Child | None = None
        self._starting = trio.Lock()
        self._loading = trio.Lock()
        self._folders: dict[bytes, tuple[pathlib.Path, str]] = {}  # and the variant
        self._nursery: trio.Nursery | None = None

    @property
    def pid(self) -> int | None:
        return self._child.process.pid if self._child else None

    @property
    def resident(self) -> tuple[bytes, ...]:
        return tuple(self._child.resident) if self._child else ()

    def family(self, model: bytes) -> str | None:
        """The family of a resident model."""
        return self._child.resident.get(model) if self._child else None

    def weights_bytes(self, model: bytes) -> int | None:
        """What the weights of a resident model take of the device's memory."""
        mib = self._child.weights_mib.get(model) if self._child else None
        return None if mib is None else mib << 20

    def statistics(self) -> dict[str, int]:
        child = self._child
        return {
            "starts": self._starts,
            "restarts": self.restarts,
            "resident": len(self.resident),
            "renders": len(child.renders) if child else 0,
        }

    async def run(
        self,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined]  # old stubs
    ) -> None:
        """Lives in the node's nursery; no process is left when it returns."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None
                if child := self._child:
                    child.kill("its peer is closing")
                    with trio.CancelScope(shield=True):
                        await self._bury(child)

    async def load(
        self, folder: pathlib.Path, model: bytes, variant: str = ""
    ) -> tuple[tuple[str, int, int], ...]:
        """Makes the folder's weights resident; RendererDied, RenderFailed.

        `variant` is the infix of its weight files, where they have one.  Returns where the time went, as spans (name,
        start_us, us), monotonic: `start_renderer` if its process was not running, and `load_weights`; none where the
        weights were resident.
        """
        async with self._loading:
            began_us, starts = now_us(), self._starts
            child = await self._running()
            self._folders[model] = folder, variant
            if model in child.resident:
                return ()
            call = child.loads[model] = _Call()
            body: dict[str, Value] = {"folder": str(folder), "model": model, "device": self.device}
            await child.send(["load", body | {"variant": variant}])
            loading_us: int = await call.wait()
            spans = [("load_weights", began_us, now_us() - began_us)]
            if self._starts > starts:
                spans = [
                    ("start_renderer", began_us, loading_us - began_us),
                    ("load_weights", loading_us, now_us() - loading_us),
                ]
            return tuple(spans)

    async def unload(self, model: bytes) -> None:
        """Gives the model's memory back; nothing where it is not resident."""
        self._folders.pop(model, None)
        if self._child and self._child.resident.pop(model, None) is not None:
            await self._child.send(["unload", {"model": model}])

    async def render(
        self,
        task: bytes,
        model: bytes,
        statement: bytes,
        on_step: Callable[[Step], None],
        *,
        adapters: Sequence[tuple[bytes, pathlib.Path, bytes]] = (),
        on_started: Callable[[], None] = lambda: None,
        preview: bool = True,
    ) -> Rendered:
        """The picture; RendererDied, RenderFailed or RenderCancelled.  A caller that is cancelled cancels the render.

        `adapters`: of those that the statement names the id, the file of weights, and its root in the manifest.
        `on_started` is called once the renderer has found nothing in the statement that it cannot do.
        """
        if model in self._folders and model not in self.resident:
            folder, variant = self._folders[model]
            await self.load(folder, model, variant)
        child = await self._running()
        if task in child.renders:
            raise ValueError("this task is being rendered")
        call = child.renders[task] = _Call(on_step, on_started)
        body: dict[str, Value] = {"task": task, "model": model, "statement": statement, "preview": preview}
        body["adapters"] = [[adapter, str(weights), root] for adapter, weights, root in adapters]
        try:
            await child.send(["render", body])
            rendered: Rendered = await call.wait()
        except trio.Cancelled:
            self.cancel(task)
            raise
        return rendered

    def cancel(self, task: bytes) -> None:
        """The task's render raises RenderCancelled within a step, or within 2 s; nothing where it is over."""
        child = self._child
        call = child.renders.get(task) if child else None
        if child is None or call is None or call.cancelled or self._nursery is None:
            return
        call.cancelled = True
        self._nursery.start_soon(self._see_cancelled, child, task, call)

    def memory_bytes(self) -> int | None:
        """What the process has resident of this machine's memory; None where there is none."""
        child = self._child
        if child is None or child.process.poll() is not None:
            return None
        try:
            return int(psutil.Process(child.process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return None

    async def retire(self, why: str) -> None:
        """Ends the process; the next load or render starts another.  Call it while nothing is asked of it."""
        if child := self._child:
            child.kill(why)
            await child.gone.wait()

    async def _see_cancelled(self, child: _Child, task: bytes, call: _Call) -> None:
        with trio.move_on_after(CANCEL_GRACE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.send, ["cancel", {"task": task}])
                await call.ended.wait()
        if not call.ended.is_set():
            child.kill(f"it did not let go of a cancelled task in {CANCEL_GRACE_S:g} s")

    async def _running(self) -> _Child:
        async with self._starting:
            if self._nursery is None:
                raise RuntimeError("Renderer.run is not running")
            child = self._child
            if child is not None and child.process.poll() is not None:
                await child.gone.wait()  # its reader is about to say so
                child = None
            if child is None or child.why is not None:
                if child is not None:
                    await child.gone.wait()
                self.restarts += self._starts > 0
                self._starts += 1
                child = self._child = self._start()
                self._nursery.start_soon(self._read, child)
            return child

    def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        threads = str(self._threads)
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's order, in which devices.py counts them
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        with theirs:
            arguments = [
                sys.executable,
                "-m",
                "peer.renderer",
                "--fd",
                str(theirs.fileno()),
                "--threads",
                threads,
            ]
            process = subprocess.Popen(
                arguments,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        ours.setblocking(False)
        return _Child(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    async def _read(self, child: _Child) -> None:
        """Hands each message to the call it is about, until the process is gone."""
        frames = FrameReader(at_most_bytes=MAX_PIPE_BYTES)
        try:
            while data := await child.stream.receive_some(RECEIVE_BYTES):
                for message in frames.feed_untrusted(data):
                    self._on_message(child, message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # as good as its end: the process's status says why
        except RemoteProtocolError as exc:
            child.kill(f"it sent what cannot be read ({exc})")
        finally:
            with trio.CancelScope(shield=True):
                await self._bury(child)

    async def _bury(self, child: _Child) -> None:
        """Waits for the process, killing it where only its socket has closed, and ends every call to it."""
        if child.gone.is_set():
            return
        with suppress(subprocess.TimeoutExpired):
            await trio.to_thread.run_sync(child.process.wait, EXIT_GRACE_S)
        child.kill("it closed its end of the pipe and went on")
        await trio.to_thread.run_sync(child.process.wait)
        await child.stream.aclose()
        if self._child is child:
            self._child = None
        reason = child.why or _ending(child.process.returncode)
        for call in (*child.loads.values(), *child.renders.values()):
            call.end(error=RenderCancelled(call.steps_done) if call.cancelled else RendererDied(reason))
        child.loads.clear()
        child.renders.clear()
        child.resident.clear()
        child.gone.set()

    def _on_message(self, child: _Child, message: Value) -> None:
        match message:
            case ["ready", {"environment": str(environment)}]:
                self.environment = environment
            case [
                "loaded",
                {
                    "model": bytes(model),
                    "family": str(family),
                    "memory_mib": int(weights_mib),
                    "start_us": int(start_us),
                },
            ]:
                child.resident[model], child.weights_mib[model] = family, weights_mib
                child.loads.pop(model).end(start_us)
            case ["load_failed", {"model": bytes(model), "sentence": str(sentence)}]:
                child.loads.pop(model).end(error=RenderFailed("load_failed", sentence))
            case [str(kind), dict(body)] if (
                isinstance(task := body.get("task"), bytes) and task in child.renders
            ):
                self._on_task_message(child, task, kind, body)
            case _:
                raise RemoteProtocolError("a message about nothing that was asked")

    def _on_task_message(self, child: _Child, task: bytes, kind: str, body: dict[str, Any]) -> None:
        call = child.renders[task]
        match kind:
            case "started":
                if not call.cancelled:
                    call.on_started()
                return
            case "span":
                call.spans.append((body["name"], body["start_us"], body["us"]))
                return
            case "step":
                call.steps_done = body["step"]
                shown = body["preview"]
                preview = (shown["width"], shown["height"], shown["rgb"]) if shown else None
                if not call.cancelled:
                    call.on_step(Step(body["step"], body["steps"], body["us"], preview))
                return
            case "done":
                fields = {key: value for key, value in body.items() if key != "task"}
                call.end(Rendered(**fields, spans=tuple(call.spans)))
            case "cancelled":
                call.end(error=RenderCancelled(body["steps_done"]))
            case "failed":
                call.end(error=RenderFailed(body["code"], body["sentence"], body["fault"]))
            case _:
                raise RemoteProtocolError(f"an unknown message {kind!r:.32}")
        del child.renders[task]


def _ending(status: int) -> str:
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    return f"it exited with status {status}"
