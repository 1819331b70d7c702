"""Runs a command that dies with the process that asked for it: ``python leash.py PARENT_PID COMMAND...``.

A process of its own, and not code between fork and exec, because the parent has threads.  The kernel ties the leash to
the *thread* that made this process, so it must be the parent's main one.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(arguments: list[str]) -> None:
    parent, *command = arguments
    if sys.platform == "linux":
        # SIGKILL: a frozen peer would not act on anything milder.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
            raise OSError(ctypes.get_errno(), "prctl refused to tie this process to its parent")
        if os.getppid() != int(parent):
            sys.exit("The process that asked for this one is gone already.")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
