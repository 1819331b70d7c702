"""`python -m peer` is the `peer` command."""

from peer.cli import main

if __name__ == "__main__":
    main()
