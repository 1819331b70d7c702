"""What became of a job, as it is told and kept: the summary of a picture, the report of a job, and their parts."""

import hashlib
from typing import Any

from protocol.policy import hindsight
from protocol.policy.calibration import Held
from protocol.policy.cost import Wishes
from protocol.policy.credits import reckoning, time_cost_millionths
from protocol.policy.ladder import Fitted
from protocol.policy.selection import Choice, Plan
from protocol.policy.timeline import Timeline, duration
from protocol.wire.canonical import Value
from protocol.wire.fields import U64
from protocol.wire.statement import Statement

from .asking import Attempt, JobFailed, Picture
from .batch import BatchRun
from .node import Node
from .order import Order
from .wanted import known_adapters

LEAST_HELD = 10  # pictures, before it is said how far predictions held


def summary(node: Node, job: str, order: Order, picture: Picture) -> dict[str, Any]:
    """Of one picture, as it is handed to whoever asked."""
    statement = picture.statement
    return {
        "job": job,
        "image": None,
        "sha256": hashlib.sha256(picture.file).hexdigest(),
        "width": statement.width,
        "height": statement.height,
        "seed": statement.seed,
        "requester": node.peer,
        "provider": picture.provider,
        "provider_name": node.name_of(picture.provider),
        "peers_known": node.directory.statistics()["peers"],
        "checked": list(picture.checked),
        "asked_us": picture.timeline.asked_us,
        "before_us": _before_us(picture, order),
        **_course(node, order, picture.timeline, picture.attempts),
        "candidates": candidates(picture.plan, node),
        "price_millionths": _price_millionths(picture),
        "value_of_time_millionths": picture.plan.wishes.value_of_time_millionths,
        "wished": order.wished.to_json(),
        "model": statement.model.hex(),
        "steps": statement.steps,
        "adapters": adapters(node, statement),
        "prompt_included": False,
    }


def report(
    node: Node, job: str, order: Order, last: tuple[int, Picture], batch: BatchRun | None
) -> dict[str, Any]:
    """Of a job of which picture `last` was there last: why that peer, and where the time went."""
    index, picture = last
    timeline, plan = picture.timeline, picture.plan
    if batch is not None and batch.plan is not None:
        plan = batch.plan
    avoidable = timeline.largest_avoidable()
    return {
        "job": job,
        "provider": picture.provider,
        "picture": index,
        "pictures": order.count,
        "before_us": _before_us(picture, order),
        "adapters": adapters(node, picture.statement),
        **_course(node, order, timeline, picture.attempts),
        **_planned(node, plan),
        "avoidable": {"span": avoidable.span, "us": avoidable.us, "sentence": avoidable.sentence}
        if avoidable
        else None,
        "price_millionths": _price_millionths(picture),
        "value_of_time_millionths": plan.wishes.value_of_time_millionths,
        "sentences": [
            *([plan.why()] if batch is None else [*batch.sentences(), _shown(index, picture, order)]),
            *_compared(timeline, picture.plan, node.directory.calibration.held()),
            *_aftermath(picture, order, node),
        ],
    }


def failure(node: Node, job: str, order: Order, failed: JobFailed) -> dict[str, Any]:
    """As `report`, of a job without a picture."""
    tried = failed.tried
    return {
        "job": job,
        **_course(node, order, tried.timeline, tried.attempts),
        **({} if tried.plan is None else _planned(node, tried.plan)),
        "sentences": [failed.sentence],
    }


def candidates(plan: Plan, node: Node) -> list[Any]:
    """Best first; `cost_millionths` is the price and what the time that counts is worth."""
    return [
        {
            "peer": choice.peer,
            "name": node.plain_name(choice.peer),
            "rtt_us": choice.rtt_us,
            "predicted_us": choice.predicted_us,
            "p90_us": choice.p90_us,
            "price_millionths": choice.price_millionths,
            "cost_millionths": _cost_millionths(choice, plan.wishes),
            "spans": dict(choice.spans),
        }
        for choice in plan.ranked
    ]


def adapters(node: Node, statement: Statement) -> list[Any]:
    """Those of the statement, by the names that are known of."""
    known = known_adapters(node, statement.model) if statement.adapters else {}
    return [
        {
            "id": adapter.hex(),
            "name": known[adapter].name if adapter in known else None,
            "weight_millionths": weight,
        }
        for adapter, weight in statement.adapters
    ]


def exclusions(plan: Plan, node: Node) -> list[Value]:
    """Who cannot draw it, and why."""
    return [
        {"peer": peer, "name": node.plain_name(peer), "sentence": sentence}
        for peer, sentence in plan.exclusions
    ]


def rung(fitted: Fitted | None) -> dict[str, Any] | None:
    if fitted is None:
        return None
    return {
        "name": fitted.rung.name,
        "given_up": fitted.given_up,
        "adapter": fitted.rung.adapter.id.hex() if fitted.rung.adapter else None,
        "within_us": fitted.within_us,
        "sentence": fitted.sentence,
    }


def _course(node: Node, order: Order, timeline: Timeline, attempts: tuple[Attempt, ...]) -> dict[str, Any]:
    return {
        "timeline": timeline.entries(),
        "wall_us": timeline.wall_us,
        "unaccounted_us": timeline.unaccounted_us,
        "attempts": [
            {
                "attempt": attempt.id.hex(),
                "number": attempt.number,
                "peer": attempt.choice.peer,
                "name": node.name_of(attempt.choice.peer),
                "why": attempt.why,
                "outcome": attempt.outcome,
                "sentence": attempt.sentence,
                "predicted_us": attempt.choice.predicted_us,
                "spans": dict(attempt.choice.spans),
            }
            for attempt in attempts
        ],
        "rung": rung(order.fitted),
    }


def _planned(node: Node, plan: Plan) -> dict[str, Any]:
    return {
        "candidates": candidates(plan, node),
        "chosen": plan.ranked[0].peer,
        "exclusions": exclusions(plan, node),
    }


def _shown(index: int, picture: Picture, order: Order) -> str:
    """Of a batch, the one that decided how long it took."""
    before_us = _before_us(picture, order)
    turn = f", whose turn came after {duration(before_us)}," if before_us else ""
    return f"Picture {index + 1} of {order.count}{turn} was there last: what follows is of it."


def _compared(timeline: Timeline, plan: Plan, held: Held | None) -> list[str]:
    first = plan.ranked[0]
    took = f"it took {duration(timeline.wall_us)}"
    said = [
        f"Predicted {duration(first.predicted_us)}, at most {duration(first.p90_us)} nine times of ten; {took}."
    ]
    if held is not None and held.pictures >= LEAST_HELD:
        said.append(f"Since this peer started, {held.sentence()}")
    return said


def _aftermath(picture: Picture, order: Order, node: Node) -> list[str]:
    """What there is to say of rung, cost, time and the peers that were not asked."""
    timeline, last = picture.timeline, _drew(picture)
    said = [] if order.fitted is None else [order.fitted.sentence]
    said += reckoning(
        _price_millionths(picture),
        timeline.wall_us,
        picture.plan.wishes.value_of_time_millionths,
        valued=order.wished.priced,
        wanted_us=order.wished.wanted_us,
        before_us=_before_us(picture, order),
    )
    asked = {attempt.choice.peer for attempt in picture.attempts}
    others = [choice for choice in picture.plan.ranked if choice.peer not in asked]
    took = hindsight.outcome(timeline.spans(), last.id.hex())
    names = {choice.peer: node.name_of(choice.peer) for choice in others}
    return said + hindsight.sentences(took, last.choice, others, names)


def _price_millionths(picture: Picture) -> int:
    """What its receipt says."""
    receipt = _drew(picture).receipt
    return receipt.receipt.price_millionths if receipt else 0


def _before_us(picture: Picture, order: Order) -> int:
    """Since the person asked, until its turn came: of a batch, not all are begun with at once."""
    return picture.timeline.asked_us - order.asked.at_us


def _drew(picture: Picture) -> Attempt:
    """The attempt that it came from."""
    return next(attempt for attempt in reversed(picture.attempts) if attempt.outcome == "done")


def _cost_millionths(choice: Choice, wishes: Wishes) -> int:
    us = wishes.counted_us(choice.predicted_us, choice.p90_us)
    return min(U64, choice.price_millionths + time_cost_millionths(us, wishes.value_of_time_millionths))
