"""`python -m peer.renderer --fd N`: loads and renders what it is told over an inherited socket, and ends with it."""

import argparse
import ctypes
import importlib
import logging
import os
import platform
import queue
import select
import socket
import sys
import threading
import warnings
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from protocol.errors import RemoteProtocolError
from protocol.wire.canonical import Value
from protocol.wire.frames import FrameReader, pack
from protocol.wire.statement import Statement

from .. import __version__
from ..clock import now_us
from . import pace
from .messages import MAX_PIPE_BYTES, RenderFailed

RECEIVE_BYTES = 1 << 16


class Pipe:
    """The socket to the peer.  One thread receives, so that a cancel is heard during a render; any thread sends."""

    def __init__(self, connection: socket.socket) -> None:
        self.inbox: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._connection = connection
        self._sending = threading.Lock()
        self._tasks = threading.Lock()
        self._waiting: set[bytes] = set()  # render tasks received and not begun
        self._current: bytes | None = None
        self._cancelled = False  # the current one
        self._poll = select.poll()
        self._poll.register(connection, select.POLLOUT)

    def send(self, *messages: Value) -> None:
        data = b"".join(pack(message) for message in messages)
        with self._sending:
            self._connection.sendall(data)

    def writable(self) -> bool:
        """A small frame would be taken without waiting: the kernel says so while most of its buffer is free."""
        return any(event & select.POLLOUT for _, event in self._poll.poll(0))

    def receive(self) -> None:
        """Runs in its thread.  The end of the socket is the end of this process, whatever it is doing."""
        frames = FrameReader(at_most_bytes=MAX_PIPE_BYTES)
        try:
            while data := self._connection.recv(RECEIVE_BYTES):
                for message in frames.feed_untrusted(data):
                    self._on_message(message)
        except (OSError, RemoteProtocolError):
            os._exit(1)
        os._exit(0)

    def _on_message(self, message: Any) -> None:
        match message:
            case ["cancel", {"task": bytes(task)}]:
                self._on_cancel(task)
            case ["render", dict(body)] if isinstance(body.get("task"), bytes):
                with self._tasks:
                    self._waiting.add(body["task"])
                self.inbox.put(("render", body))
            case ["load" | "unload" as kind, dict(body)]:
                self.inbox.put((str(kind), body))
            case _:
                os._exit(2)  # our peer is of another version: nothing can be said to it

    def _on_cancel(self, task: bytes) -> None:
        with self._tasks:
            if task == self._current:
                self._cancelled = True
                return
            if task not in self._waiting:
                return  # it ended while the cancel was on its way
            self._waiting.remove(task)
        self.send(["cancelled", {"task": task, "steps_done": 0}])

    def begin(self, task: bytes) -> bool:
        """False: it was cancelled while it waited."""
        with self._tasks:
            if task not in self._waiting:
                return False
            self._waiting.remove(task)
            self._current, self._cancelled = task, False
            return True

    def end(self) -> None:
        with self._tasks:
            self._current = None

    def cancelled(self) -> bool:
        return self._cancelled


class Service:
    """The resident models of one device, and the messages about them."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._models: dict[bytes, Any] = {}

    def serve(self) -> None:
        """Never returns: the receiving thread ends the process."""
        while True:
            kind, body = self._pipe.inbox.get()
            match kind:
                case "load":
                    self._pipe.send(
                        self._load(body["folder"], body["model"], body["device"], body["variant"])
                    )
                case "unload":
                    self._models.pop(body["model"], None)
                    _free_memory()
                case "render" if self._pipe.begin(body["task"]):
                    self._render(
                        body["task"],
                        body["model"],
                        body["statement"],
                        body["adapters"],
                        preview=body["preview"],
                    )
                    self._pipe.end()

    def _load(self, folder: str, model_id: bytes, device: str, variant: str) -> Value:
        from . import pipelines, render

        start_us = now_us()
        try:
            render.prepare()
            model = self._models[model_id] = pipelines.load(Path(folder), device, variant=variant)
        except pipelines.LoadFailed as exc:
            return ["load_failed", {"model": model_id, "sentence": f"This folder cannot be loaded: {exc}"}]
        except Exception as exc:  # noqa: BLE001 - the renderer's edge
            failed = _failure(exc)
            return ["load_failed", {"model": model_id, "sentence": failed.sentence}]
        body: dict[str, Value] = {"family": model.family.name, "memory_mib": model.weights_mib}
        return ["loaded", body | {"model": model_id, "start_us": start_us}]

    def _render(
        self, task: bytes, model_id: bytes, statement: bytes, adapters: list[Any], *, preview: bool
    ) -> None:
        from . import render
        from .adapters import AdapterFile

        spans: list[Value] = []
        total = 0

        def on_span(name: str, start_us: int, us: int) -> None:
            spans.append(["span", {"task": task, "name": name, "start_us": start_us, "us": us}])

        def on_started() -> None:
            self._pipe.send(["started", {"task": task}])

        def on_step(step: int, us: int, make_preview: Any) -> None:
            if (
                self._pipe.writable()
            ):  # otherwise nobody is reading: this step's news is dropped, a later one is newer
                made = make_preview() if preview else None
                shown = made.to_value() if made else None
                self._pipe.send(
                    ["step", {"task": task, "step": step, "steps": total, "us": us, "preview": shown}]
                )

        last: Value
        try:
            asked = Statement.from_untrusted(statement)
            total = asked.steps
            if (model := self._models.get(model_id)) is None or asked.model != model_id:
                raise RenderFailed("unsupported", "The statement's model is not loaded in this renderer.")
            watcher = render.Watcher(on_span, on_step, self._pipe.cancelled, on_started)
            files = {adapter: AdapterFile(Path(weights), root) for adapter, weights, root in adapters}
            picture = render.render(model, asked, watcher, files)
        except render.Cancelled as exc:
            last = ["cancelled", {"task": task, "steps_done": exc.steps_done}]
        except RemoteProtocolError as exc:
            last = _failed(task, RenderFailed("unsupported", f"Not a statement: {exc}.", "requester"))
        except Exception as exc:  # noqa: BLE001 - the renderer's edge
            if _out_of_memory(exc):
                for each in self._models.values():
                    each.adapted.forget()
            last = _failed(task, _failure(exc))
        else:
            last = [
                "done",
                {
                    "task": task,
                    "file": picture.file,
                    "width": picture.width,
                    "height": picture.height,
                    "pixels": picture.pixels,
                    "sigmas": picture.sigmas,
                    "steps_done": picture.steps_done,
                },
            ]
        self._pipe.send(*spans, last)


def _failed(task: bytes, failed: RenderFailed) -> Value:
    return ["failed", {"task": task, "code": failed.code, "sentence": failed.sentence, "fault": failed.fault}]


def _failure(exc: Exception) -> RenderFailed:
    """The renderer's edge: any exception becomes words that hold nothing of the prompt."""
    if isinstance(exc, RenderFailed):
        return exc
    if _out_of_memory(exc):
        _free_memory()
        return RenderFailed("out_of_memory", "The renderer ran out of memory: a smaller picture may fit.")
    return RenderFailed("internal", f"The renderer failed inside ({type(exc).__name__}).")


def _out_of_memory(exc: Exception) -> bool:
    import torch

    # On a CPU torch raises a plain RuntimeError from its DefaultCPUAllocator.
    return isinstance(exc, torch.OutOfMemoryError | MemoryError) or (
        isinstance(exc, RuntimeError) and "DefaultCPUAllocator" in str(exc)
    )


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # glibc keeps what is freed
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def environment() -> str:
    """What decides the last bits of a picture, besides the device."""
    emulated = "" if pace.current() is None else f" {pace.LABEL}"
    parts = [f"nearlight {__version__}{emulated}", f"python {platform.python_version()}"]
    parts += [f"{name} {_version(name)}" for name in ("torch", "diffusers", "transformers")]
    return "; ".join([*parts, f"{platform.system()} {platform.machine()}"])[:128]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # a module on the path that was not installed
        return str(getattr(importlib.import_module(distribution), "__version__", "unknown"))


def _quiet() -> None:
    """Libraries quote prompts in warnings and exceptions: nothing of theirs is printed here."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.excepthook = _say_type
    threading.excepthook = lambda args: _say_type(args.exc_type, args.exc_value, args.exc_traceback)


def _say_type(
    kind: type[BaseException], value: BaseException | None, traceback: TracebackType | None
) -> None:
    print(f"renderer: {kind.__name__}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m peer.renderer", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="an inherited stream socket to the peer")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on a CPU")
    arguments = parser.parse_args()
    _quiet()
    pipe = Pipe(socket.socket(fileno=arguments.fd))
    # Not PR_SET_PDEATHSIG: it follows the thread that started us, and the peer starts processes from short-lived ones.
    threading.Thread(target=pipe.receive, name="receive", daemon=True).start()
    pipe.send(["ready", {"environment": environment(), "pid": os.getpid()}])

    import torch

    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    Service(pipe).serve()


if __name__ == "__main__":
    main()
