"""What a person wishes of price and time, the rung that is taken for it, and what a picture would cost, or did."""

import secrets
from dataclasses import dataclass
from typing import Any

from protocol.policy import hindsight
from protocol.policy.batch import outlooks, split
from protocol.policy.cost import USUAL, Wishes
from protocol.policy.credits import MAX_TIME_US, reckoning, time_cost_millionths
from protocol.policy.ladder import Fitted, fit, given_up
from protocol.policy.selection import Choice, NoCandidate, Plan, plan
from protocol.policy.timeline import duration
from protocol.wire.fields import U64, Fields
from protocol.wire.statement import Statement

from .asking import Attempt, Picture
from .clock import now_us
from .errors import NOBODY, WRONG_USAGE, UserError
from .node import Node


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


def wished_untrusted(fields: Fields, count: int) -> Wished:
    """The `wishes` of a request for `count` pictures.  MalformedMessage, UserError."""
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


def fitted(node: Node, statement: Statement, wished: Wished, asked_us: int, *, remote: bool) -> Fitted | None:
    """The rung that is in time, if quality may be given up for it.  UserError if none is."""
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
        )
    except NoCandidate as exc:
        raise UserError(str(exc), NOBODY) from exc


def quote(node: Node, statement: Statement, wishes: Wishes, *, remote: bool, count: int) -> dict[str, Any]:
    """Who would be asked for it, and what of; nobody is.  UserError if nobody can."""
    at_us = now_us()
    planned = _planned(node, statement, wishes, at_us, remote=remote)
    return {
        "count": count,
        "split": _split(node, planned, count, at_us) if count > 1 else None,
        "width": statement.width,
        "height": statement.height,
        "steps": statement.steps,
        "model": statement.model.hex(),
        "value_of_time_millionths": wishes.value_of_time_millionths,
        "candidates": candidates(planned, node),
        "exclusions": [
            {"peer": peer, "name": node.plain_name(peer), "sentence": sentence}
            for peer, sentence in planned.exclusions
        ],
        "sentence": planned.why(),
    }


def check_in_time(node: Node, statement: Statement, wishes: Wishes, *, remote: bool, count: int) -> None:
    """UserError if not all `count` pictures are expected in the time that is left for them."""
    if wishes.due_us is not None:
        at_us = now_us()
        _split(node, _planned(node, statement, wishes, at_us, remote=remote), count, at_us)


def _planned(node: Node, statement: Statement, wishes: Wishes, at_us: int, *, remote: bool) -> Plan:
    try:
        return plan(
            node.directory.candidates(at_us, own=not remote),
            statement,
            now_us=at_us,
            seed=secrets.randbits(63),
            wishes=wishes,
        )
    except NoCandidate as exc:
        raise UserError(str(exc), NOBODY) from exc


def _split(node: Node, planned: Plan, count: int, at_us: int) -> dict[str, Any]:
    """How a batch would be begun with, and when all of it would be there; UserError where that is too late."""
    found, left_us = split(outlooks(planned), count), planned.wishes.left_us(at_us)
    if left_us is not None and found.there_us > left_us:
        raise UserError(
            f"Nobody is expected to have all {count} pictures in the {duration(max(0, left_us))} that are left for "
            f"them: split over {len(found.pictures)}, they would take {duration(found.there_us)}.",
            NOBODY,
        )
    prices = {choice.peer: choice.price_millionths for choice in planned.ranked}
    return {
        "there_us": found.there_us,
        "price_millionths": sum(prices[peer] * pictures for peer, pictures in found.pictures.items()),
        "peers": [
            {"peer": peer, "name": node.plain_name(peer), "pictures": pictures}
            for peer, pictures in sorted(found.pictures.items(), key=lambda item: -item[1])
        ],
    }


def candidates(planned: Plan, node: Node) -> list[Any]:
    """Best first; `cost_millionths` is the price and what the time that counts is worth."""
    return [
        {
            "peer": choice.peer,
            "name": node.plain_name(choice.peer),
            "rtt_us": choice.rtt_us,
            "predicted_us": choice.predicted_us,
            "p90_us": choice.p90_us,
            "price_millionths": choice.price_millionths,
            "cost_millionths": _cost_millionths(choice, planned.wishes),
            "spans": dict(choice.spans),
        }
        for choice in planned.ranked
    ]


def rung(fitted: Fitted | None) -> dict[str, Any] | None:
    if fitted is None:
        return None
    return {
        "name": fitted.rung.name,
        "given_up": given_up(fitted.asked, fitted.drawn),
        "within_us": fitted.within_us,
        "sentence": fitted.sentence,
    }


def price_millionths(picture: Picture) -> int:
    """What its receipt says."""
    receipt = drew(picture).receipt
    return receipt.receipt.price_millionths if receipt else 0


def drew(picture: Picture) -> Attempt:
    """The attempt that it came from."""
    return next(attempt for attempt in reversed(picture.attempts) if attempt.outcome == "done")


def aftermath(picture: Picture, wished: Wished, fitted: Fitted | None, node: Node) -> list[str]:
    """What there is to say of rung, cost, time and the peers that were not asked, once the picture is there."""
    timeline, last = picture.timeline, drew(picture)
    said = [] if fitted is None else [fitted.sentence]
    said += reckoning(
        price_millionths(picture),
        timeline.wall_us,
        picture.plan.wishes.value_of_time_millionths,
        valued=wished.priced,
        wanted_us=wished.wanted_us,
    )
    asked = {attempt.choice.peer for attempt in picture.attempts}
    others = [choice for choice in picture.plan.ranked if choice.peer not in asked]
    took = hindsight.outcome(timeline.spans(), last.id.hex())
    names = {choice.peer: node.name_of(choice.peer) for choice in others}
    return said + hindsight.sentences(took, last.choice, others, names)


def _cost_millionths(choice: Choice, wishes: Wishes) -> int:
    us = wishes.counted_us(choice.predicted_us, choice.p90_us)
    return min(U64, choice.price_millionths + time_cost_millionths(us, wishes.value_of_time_millionths))
