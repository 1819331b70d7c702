"""What pictures would cost, and when they would be there; nobody is asked for anything."""

import secrets
from typing import Any

from protocol.policy.batch import outlooks, split
from protocol.policy.selection import NoCandidate, Plan, plan
from protocol.policy.timeline import duration

from . import account
from .clock import now_us
from .errors import NOBODY, UserError
from .node import Node
from .order import Order


def quote(node: Node, order: Order) -> dict[str, Any]:
    """Who would be asked for it, and what of.  UserError if nobody can."""
    at_us, statement = now_us(), order.statement
    planned = _planned(node, order, at_us)
    return {
        "count": order.count,
        "split": _split(node, planned, order.count, at_us) if order.count > 1 else None,
        "width": statement.width,
        "height": statement.height,
        "steps": statement.steps,
        "model": statement.model.hex(),
        "adapters": account.adapters(node, statement),
        "value_of_time_millionths": planned.wishes.value_of_time_millionths,
        "candidates": account.candidates(planned, node),
        "exclusions": account.exclusions(planned, node),
        "sentence": planned.why(),
        "rung": account.rung(order.fitted),
    }


def check_in_time(node: Node, order: Order) -> None:
    """UserError if not all pictures of a batch are expected in the time that is left for them."""
    if order.count > 1 and order.asked.wishes.due_us is not None:
        at_us = now_us()
        _split(node, _planned(node, order, at_us), order.count, at_us)


def _planned(node: Node, order: Order, at_us: int) -> Plan:
    try:
        return plan(
            node.directory.candidates(at_us, own=not order.remote),
            order.statement,
            now_us=at_us,
            seed=secrets.randbits(63),
            wishes=order.asked.wishes,
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
