"""Runs a command in a network namespace: ``python inside.py DESCRIPTOR COMMAND...``."""

import ctypes
import os
import sys

_CLONE_NEWNET = 0x40000000  # sched.h


def main(arguments: list[str]) -> None:
    namespace, *command = arguments
    if ctypes.CDLL(None, use_errno=True).setns(int(namespace), _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns refused the network namespace")
    os.close(int(namespace))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
