"""A request for pictures, read: what is wanted, what the person wishes of price and time, and the rung that is taken."""

from dataclasses import dataclass, replace
from typing import Any

from protocol.errors import MalformedMessage
from protocol.policy.cost import USUAL, Wishes
from protocol.policy.credits import MAX_TIME_US
from protocol.policy.ladder import Fitted, fit
from protocol.policy.selection import NoCandidate
from protocol.wire.canonical import Value
from protocol.wire.fields import U64, Fields
from protocol.wire.statement import Statement

from .asking import Asked
from .clock import now_us
from .errors import NOBODY, WRONG_USAGE, UserError
from .node import Node
from .wanted import of_batch, statement_untrusted, trusted_adapters

MAX_COUNT = 1000
STARTING = ("start_peer", "join")  # what may come between "asked" and the request: spans of whoever asks


@dataclass(frozen=True)
class Wished:
    """As the person said it; None: they did not."""

    value_of_time_millionths: int | None = None  # of a second
    deadline_us: int | None = None  # since they asked: later it is of no use
    within_us: int | None = None  # since they asked: quality is given up for it

    @property
    def priced(self) -> bool:
        return self.value_of_time_millionths is not None

    @property
    def wanted_us(self) -> int | None:
        return self.deadline_us or self.within_us

    def wishes(self, asked_us: int, *, batch: bool) -> Wishes:
        value, wanted_us = self.value_of_time_millionths, self.wanted_us
        return Wishes(
            value_of_time_millionths=USUAL.value_of_time_millionths if value is None else value,
            due_us=None if wanted_us is None else asked_us + wanted_us,
            must=self.within_us is None,  # what was given up for it is enough: late, it is still wanted
            batch=batch,
        )

    def to_json(self) -> dict[str, int]:
        """What was said."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Order:
    """What is to be drawn for whoever asked."""

    statement: Statement  # of the first picture, as it is drawn
    count: int
    remote: bool  # not on one's own device
    asked: Asked
    wished: Wished
    fitted: Fitted | None  # where quality may be given up for time
    saves: bool  # whoever asked says when each picture is on disk

    def statements(self) -> list[Statement]:
        return [of_batch(self.statement, index) for index in range(self.count)]

    def to_json(self) -> dict[str, Any]:
        """As it is kept: without the words."""
        statement = self.statement
        return {
            "model": statement.model.hex(),
            "width": statement.width,
            "height": statement.height,
            "steps": statement.steps,
            "guidance_millionths": statement.guidance_millionths,
            "sampler": statement.sampler,
            "adapters": [[adapter.hex(), weight] for adapter, weight in statement.adapters],
            "seed": statement.seed,
            "count": self.count,
            "remote": self.remote,
            **self.wished.to_json(),
        }


async def order_untrusted(node: Node, kind: str, body: dict[str, Value]) -> Order:
    """Of a "render" or a "quote".  UserError if it is none, or if nobody draws anything like it soon enough."""
    heard_us = now_us()
    fields = Fields({"wishes": None, **body}, kind)
    try:
        asked = _asked(fields, heard_us)
        saves = fields.maybe("~saves", fields.flag) or False
        count = fields.integer("count", 1, MAX_COUNT)
        wished = _wished(fields, count)
        remote = fields.flag("remote")
        statement = await statement_untrusted(node, fields)
    except MalformedMessage as exc:
        raise UserError(f"{exc}.", WRONG_USAGE) from exc
    fitted = _fitted(node, statement, wished, asked.at_us, remote=remote)
    return Order(
        statement=fitted.drawn if fitted else statement,
        count=count,
        remote=remote,
        asked=replace(asked, wishes=wished.wishes(asked.at_us, batch=count > 1)),
        wished=wished,
        fitted=fitted,
        saves=saves,
    )


def _asked(fields: Fields, heard_us: int) -> Asked:
    """When the person asked, and what was done before the request was heard, as the command measured it.

    Both on CLOCK_MONOTONIC, which the processes of a machine share; without them it was asked just now.
    """
    at_us = fields.maybe("~asked_us", lambda key: fields.integer(key, 0, heard_us))
    spans = fields.maybe("~spans", lambda key: fields.items(key, at_most=len(STARTING)))
    before = []
    for span in spans or ():
        match span:
            case [str(name), int(start_us), int(us)] if name in STARTING and 0 <= us <= heard_us - start_us:
                before.append((name, start_us, us))
            case _:
                raise MalformedMessage("a span is a name, a start and a duration")
    return Asked(heard_us if at_us is None else at_us, tuple(before))


def _wished(fields: Fields, count: int) -> Wished:
    nested = fields.maybe("wishes", fields.map)
    if nested is None:
        return Wished()
    wished = Wished(
        value_of_time_millionths=nested.maybe(
            "~value_of_time_millionths", lambda key: nested.integer(key, 0, U64)
        ),
        deadline_us=nested.maybe("~deadline_us", lambda key: nested.integer(key, 1, MAX_TIME_US)),
        within_us=nested.maybe("~within_us", lambda key: nested.integer(key, 1, MAX_TIME_US)),
    )
    nested.end()
    if wished.within_us is not None and (wished.deadline_us is not None or count > 1):
        raise UserError(
            "A time for which quality is given up is that of one picture without a deadline.", WRONG_USAGE
        )
    return wished


def _fitted(
    node: Node, statement: Statement, wished: Wished, asked_us: int, *, remote: bool
) -> Fitted | None:
    """The rung that is in time, if quality may be given up for it."""
    if wished.within_us is None:
        return None
    at_us = now_us()
    try:
        return fit(
            node.directory.candidates(at_us, own=not remote),
            statement,
            wished.within_us,
            spent_us=at_us - asked_us,
            now_us=at_us,
            adapters=trusted_adapters(node, statement.model),
        )
    except NoCandidate as exc:
        raise UserError(str(exc), NOBODY) from exc
