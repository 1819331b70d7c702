"""What is in the groups that nurseries make of errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from protocol.errors import RemoteProtocolError, UnknownCriticalField


@contextmanager
def one_error(*kinds: type[Exception]) -> Iterator[None]:
    """Around a nursery: where nothing but these went wrong, an error of the first kind that did."""
    try:
        yield
    except BaseExceptionGroup as group:
        _, others = group.split(kinds)
        if others is not None:
            raise
        raise next(error for kind in kinds if (error := _first(group, kind))) from None


def is_their_fault(error: BaseException) -> bool:
    """A peer did what it may not: alone or in a group.  A field of the future is nobody's fault.  (README section 11.)"""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_their_fault, error.exceptions))
    return isinstance(error, RemoteProtocolError) and not isinstance(error, UnknownCriticalField)


def _first(group: BaseExceptionGroup[BaseException], kind: type[Exception]) -> BaseException | None:
    found: BaseException | None = group.subgroup(kind)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
