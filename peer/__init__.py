"""The Nearlight peer: the shell around protocol/."""

__version__ = "0.1.0"
