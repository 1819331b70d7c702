"""`python -m testnet up`: a swarm of real peers on this machine, until Ctrl-C.  `simulate`: thousands, in virtual time."""

import signal

if __name__ == "__main__":
    # While modules are read there is nothing to clean up: Ctrl-C ends it at once, without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .command import main

    main()
