"""What tests and benchmarks of emulated links share."""

import os
import time

import trio

from testnet import tun


def lacks() -> str | None:
    """What is missing to emulate links here; None where nothing is."""
    try:
        descriptors = tun.make_host("10.66.255.1", 1500)
    except tun.CannotEmulate as exc:
        return str(exc)
    for each in descriptors:
        os.close(each)
    return None


async def round_trips_ms(near: trio.SocketStream, far: trio.SocketStream, count: int) -> list[float]:
    """Of one byte there and one back, one after another."""
    took = []
    for _ in range(count):
        start = time.monotonic()
        await near.send_all(b"a")
        await far.receive_some(1)
        await far.send_all(b"b")
        await near.receive_some(1)
        took.append((time.monotonic() - start) * 1000)
    return took
