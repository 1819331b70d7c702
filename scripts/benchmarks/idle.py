"""So many peers that nobody asks for anything, watched for a while; prints one JSON object."""

import fcntl
import json
import socket
import struct
import sys

import psutil
import trio

from testnet.swarm import SwarmConfig, swarm

READY_WITHIN_S = 30.0  # of each peer: they start side by side
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # netdevice(7)


def raise_loopback() -> None:
    """A new network namespace has a loopback that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def cpu_s(pid: int) -> float:
    """Of a process and of what it started."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def loopback_bytes() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_recv)


async def watch(peers: int, settle_s: float, watch_s: float) -> None:
    async with swarm(SwarmConfig(peers=peers, ready_within_s=READY_WITHIN_S * peers)) as running:
        await trio.sleep(settle_s)
        pids = [peer.pid for peer in running.peers]
        cpu_before, bytes_before, began_s = (
            [cpu_s(pid) for pid in pids],
            loopback_bytes(),
            trio.current_time(),
        )
        await trio.sleep(watch_s)
        took_s = trio.current_time() - began_s
        used_s = [cpu_s(pid) - before for pid, before in zip(pids, cpu_before, strict=True)]
        moved = 2 * (loopback_bytes() - bytes_before)  # each byte leaves one peer and comes to another
    percents = [round(100 * used / took_s, 3) for used in used_s]
    print(json.dumps({"core_percent": percents, "kb_per_s_each": round(moved / took_s / peers / 1000, 3)}))


if __name__ == "__main__":
    if "--alone" in sys.argv[1:]:
        raise_loopback()
    trio.run(watch, int(sys.argv[1]), *map(float, sys.argv[2:4]))
