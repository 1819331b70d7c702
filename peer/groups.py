"""One error instead of the group that a nursery makes of it."""

from collections.abc import Iterator
from contextlib import contextmanager


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


def _first(group: BaseExceptionGroup[BaseException], kind: type[Exception]) -> BaseException | None:
    found: BaseException | None = group.subgroup(kind)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
