"""The router process: `python -m testnet.router --fd N`, N being its end of the control socket.

One JSON object a line.  The first is `Setup`; the answer carries each host's network namespace as a descriptor.  Then
`{"paths": ..., "lines": ...}` changes links, `{}` asks for the statistics; each is answered once it holds.  The end of
the socket is the end of this process, and with it of the TUN devices.
"""

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import tun
from .link import Fabric, Line
from .link import Path as LinkPath
from .packets import Recorder

ADDRESS = "10.66.{}.{}"
# The Internet's: with jumbo frames the first window of a connection would hold six times as much.
MTU_BYTES = 1500
# Packets due this soon after a wake-up go with it: a fifth of the accuracy that is promised.
COALESCE_NS = 200_000
READS_AT_ONCE = 64  # from one host before the others have their turn
IDLE_S = 0.5  # then the record is flushed
MAX_PACKET_BYTES = 65_536
_SLACK_NS = 1  # instead of the kernel's 50 us
_PR_SET_TIMERSLACK = 29  # prctl(2)
_PRIORITY = 1  # of real time: a router that waits for a core makes every delay a wrong one
_NICE = -10  # where real time is not allowed
_CONTROL_BYTES = 1 << 16


@dataclass(frozen=True)
class Setup:
    """`hosts` have the addresses `host_address(0)`, ...; a `record` must not exist yet."""

    hosts: int
    seed: int
    record: str


def host_address(index: int) -> str:
    return ADDRESS.format((index + 1) >> 8, (index + 1) & 255)


_FIRST = int.from_bytes(socket.inet_aton(host_address(0)), "big")


class Router:
    """Moves packets between TUN devices by the fabric's clockwork."""

    def __init__(self, control: socket.socket, setup: Setup) -> None:
        self._control = control
        self._unread = b""
        self.namespaces: list[int] = []
        self._devices: list[int] = []
        for index in range(setup.hosts):
            namespace, device = tun.make_host(host_address(index), MTU_BYTES)
            self.namespaces.append(namespace)
            self._devices.append(device)
        self._fabric: Fabric[bytes] = Fabric(setup.hosts, setup.seed)
        self._recorder = Recorder(Path(setup.record), [host_address(index) for index in range(setup.hosts)])
        self._latest_ns = 0  # the worst lateness of a delivery
        self._refused = 0  # packets that the receiving kernel did not take
        self._epoll = select.epoll()
        self._hosts = {device: index for index, device in enumerate(self._devices)}
        for device in self._devices:
            self._epoll.register(device, select.EPOLLIN)
        self._epoll.register(control.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Until the control socket ends."""
        waiting = [self._epoll.fileno()]
        control = self._control.fileno()
        fabric, epoll = self._fabric, self._epoll
        while True:
            due_ns = fabric.next_due_ns()
            # select and not epoll_wait, whose timeout is in whole milliseconds.
            timeout_s = IDLE_S if due_ns is None else (due_ns + COALESCE_NS - time.monotonic_ns()) / 1e9
            if timeout_s > 0 and not select.select(waiting, [], [], timeout_s)[0] and due_ns is None:
                self._recorder.flush()
            for descriptor, _ in epoll.poll(0):
                if descriptor == control:
                    if not self._hear():
                        return
                else:
                    self._read(self._hosts[descriptor], descriptor)
            self._deliver()

    def close(self) -> None:
        self._recorder.close()

    def _read(self, source: int, device: int) -> None:
        send, record = self._fabric.send, self._recorder.write
        for _ in range(READS_AT_ONCE):
            try:
                data = os.read(device, MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            if data[0] >> 4 != 4:
                continue  # IPv6 hosts look for neighbours on their own
            destination = int.from_bytes(data[16:20], "big") - _FIRST
            ended = send(source, destination, len(data), time.monotonic_ns(), data)
            if ended is not None:
                record(ended, 0)

    def _deliver(self) -> None:
        for flight in self._fabric.due(time.monotonic_ns()):
            out_ns = 0
            if flight.fate == "delivered":
                out_ns = time.monotonic_ns()  # before, so that no receiver has it sooner than the record says
                self._latest_ns = max(self._latest_ns, out_ns - flight.out_ns)
                try:
                    os.write(self._devices[flight.destination], flight.packet)
                except OSError:
                    self._refused += 1
                    out_ns = 0
            self._recorder.write(flight, out_ns)

    def _hear(self) -> bool:
        """False at the end of the socket."""
        data = self._control.recv(_CONTROL_BYTES)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._change(json.loads(line))
            self._answer()
        return bool(data)

    def _change(self, wanted: dict[str, Any]) -> None:
        for source, destination, path in wanted.get("paths", ()):
            self._fabric.set_path(source, destination, LinkPath(**path))
        now_ns = time.monotonic_ns()
        for host, up, down in wanted.get("lines", ()):
            self._fabric.set_lines(host, Line(**up), Line(**down), now_ns)

    def _answer(self) -> None:
        self._recorder.flush()
        times = os.times()
        statistics = {
            "at_ns": time.monotonic_ns(),
            "cpu_s": times.user + times.system,
            "latest_us": self._latest_ns // 1000,
            "refused": self._refused,
            **asdict(self._fabric.statistics),
        }
        self._control.sendall(json.dumps(statistics).encode() + b"\n")


def _come_first() -> None:
    with contextlib.suppress(PermissionError):  # inside a user namespace
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
        return
    with contextlib.suppress(PermissionError):
        os.nice(_NICE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testnet.router", description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args().fd)
    # The end of the socket is what ends it, with its record whole.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _SLACK_NS)
    _come_first()
    setup = Setup(**json.loads(control.makefile("rb").readline()))
    try:
        router = Router(control, setup)
    except tun.CannotEmulate as exc:
        control.sendall(json.dumps({"cannot": str(exc)}).encode() + b"\n")
        return
    answer = json.dumps({"hosts": setup.hosts}).encode() + b"\n"
    socket.send_fds(control, [answer], router.namespaces)
    for namespace in router.namespaces:
        os.close(namespace)
    with contextlib.closing(router):
        router.run()


if __name__ == "__main__":
    main()
