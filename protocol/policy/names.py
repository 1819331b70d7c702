"""What people are shown of peer ids: their ends, for all begin alike, and an end cannot be chosen."""

SHORT_CHARS = 8  # where it stands alone
TAIL_CHARS = 6  # with which a peer without a name is called, and names are told apart


def short(peer: str) -> str:
    """A peer id as it stands alone."""
    return peer if len(peer) <= 2 * SHORT_CHARS else f"..{peer[-SHORT_CHARS:]}"


def tail(peer: str) -> str:
    """What follows a name."""
    return peer[-TAIL_CHARS:]


def named(name: str, peer: str) -> str:
    """A name, which anybody may give themselves, and what tells it from others of that name."""
    return f"{name} ({tail(peer)})"
