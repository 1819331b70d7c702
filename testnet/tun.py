"""A network namespace with one TUN device in it, by system calls: nothing of it has a name outside.

Neither outlives the descriptors and processes that hold it, so what a killed run leaves behind is processes only.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

DEVICE = Path("/dev/net/tun")
NAME = b"wan0"
PREFIX_BITS = 16

_CLONE_NEWNET = 0x40000000  # sched.h
_TUNSETIFF = 0x400454CA  # if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCSIFTXQLEN = (
    0x8914,
    0x8916,
    0x891C,
    0x8922,
    0x8943,
)  # sockios.h
_IFF_UP = 1
_TXQUEUE_PACKETS = 2000  # the router drains it at once; the bounded queue that counts is the line's

_libc = ctypes.CDLL(None, use_errno=True)


class CannotEmulate(Exception):
    """Links cannot be emulated here: what is missing."""


def own_namespace() -> int:
    """A descriptor of the network namespace this thread is in."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Moves this thread there."""
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def make_host(address: str, mtu_bytes: int) -> tuple[int, int]:
    """A new namespace in which `address`/16 is behind a TUN device: (namespace, TUN) descriptors; CannotEmulate.

    This thread is where it was afterwards.
    """
    home = own_namespace()
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise CannotEmulate(
                f"a network namespace could not be made ({reason}): run as root, or as `unshare -Urnm COMMAND`"
            )
        try:
            device = _make_device(address, mtu_bytes)
            return own_namespace(), device
        finally:
            enter(home)
    finally:
        os.close(home)


def _make_device(address: str, mtu_bytes: int) -> int:
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise CannotEmulate(f"{DEVICE} cannot be opened ({exc.strerror})") from exc
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", NAME, _IFF_TUN | _IFF_NO_PI))
    except OSError as exc:
        os.close(device)
        raise CannotEmulate(f"a TUN device could not be made ({exc.strerror})") from exc
    try:
        _set_up(address, mtu_bytes)
    except OSError as exc:
        os.close(device)
        raise CannotEmulate(f"a TUN device could not be set up ({exc.strerror})") from exc
    return device


def _set_up(address: str, mtu_bytes: int) -> None:
    mask = socket.inet_ntoa(struct.pack(">I", (0xFFFFFFFF << (32 - PREFIX_BITS)) & 0xFFFFFFFF))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", NAME, mtu_bytes))
        with contextlib.suppress(PermissionError):  # inside a user namespace it stays at 500
            fcntl.ioctl(control, _SIOCSIFTXQLEN, struct.pack("16si20x", NAME, _TXQUEUE_PACKETS))
        fcntl.ioctl(control, _SIOCSIFADDR, _request_address(address))
        fcntl.ioctl(control, _SIOCSIFNETMASK, _request_address(mask))
        for name in (NAME, b"lo"):
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", name, _IFF_UP))


def _request_address(address: str) -> bytes:
    sockaddr = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
    return struct.pack("16s16s8x", NAME, sockaddr)
