"""Two honest peers never convict each other, however their messages cross on the wire.

Every interleaving of sends and deliveries until nothing new is reached, not a sample: the space is small, because what
may be repeated (LOADING, PROGRESS, CHUNK, ACK, CANCEL) is said at most REPEATS times.  Either may close a stream on which
it has seen nothing said, at any moment (README section 9.6); so a close crosses an offer in every way it can.
"""

import pytest

from protocol.errors import LocalProtocolError
from protocol.wire.conversation import KINDS, Conversation, Role, State

REPEATS = 2
REPEATED = ("loading", "progress", "chunk", "ack", "cancel")
ONCE_ONLY = KINDS - set(REPEATED)
CLOSE = "close"  # the end of a speaker's side of the stream
CLOSED = None  # the view of a speaker who has closed: it reads and says nothing more


def view(role, states):
    conversation = Conversation(role)
    conversation.states = dict(zip(Role, states, strict=True))
    return conversation


def seen_by(conversation):
    return tuple(conversation.states[role] for role in Role)


def steps(world):
    """Worlds one send or one delivery away.  A world: each role's view, each role's words under way, words left."""
    views, wires, left = world
    for index, role in enumerate(Role):
        far = 1 - index
        if views[index] is CLOSED:
            if wires[far]:
                yield views, put(wires, far, wires[far][1:]), left
            continue
        if wires[far] and wires[far][0] == CLOSE:  # heard as the stream's end: a loss, or nothing at all
            yield put(views, index, CLOSED), put(wires, far, ()), left
        elif wires[far]:
            here = view(role, views[index])
            kind, *rest = wires[far]
            here.received(kind, now_us=0)  # must not raise: the sender was honest
            yield put(views, index, seen_by(here)), put(wires, far, tuple(rest)), left
        if views[index] == IDLE:
            yield put(views, index, CLOSED), put(wires, index, (*wires[index], CLOSE)), left
        for kind in KINDS:
            here = view(role, views[index])
            if kind in REPEATED and not left[REPEATED.index(kind)]:
                continue
            try:
                here.sent(kind, now_us=0)
            except LocalProtocolError:
                continue
            spent = left
            if kind in REPEATED:
                spent = put(left, REPEATED.index(kind), left[REPEATED.index(kind)] - 1)
            yield put(views, index, seen_by(here)), put(wires, index, (*wires[index], kind)), spent


IDLE = (State.IDLE, State.IDLE)


def put(items, index, item):
    return (*items[:index], item, *items[index + 1 :])


@pytest.fixture(scope="module")
def worlds():
    start = ((IDLE, IDLE), ((), ()), (REPEATS,) * len(REPEATED))
    frontier, seen = [start], {start}
    while frontier:
        reached = []
        for world in frontier:
            for after in steps(world):
                if after not in seen:
                    seen.add(after)
                    reached.append(after)
        frontier = reached
    return seen


def test_no_crossing_convicts_anyone(worlds):
    assert len(worlds) > 10_000  # each was reached without a RemoteProtocolError


def test_when_nothing_is_under_way_both_see_the_same(worlds):
    for views, wires, _ in worlds:
        if wires == ((), ()):
            assert views[0] == views[1]


def test_a_conversation_that_is_not_over_can_go_on_until_it_is(worlds):
    for views, wires, left in worlds:
        if wires == ((), ()) and CLOSED not in views and not view(Role.REQUESTER, views[0]).over:
            assert any(True for _ in steps((views, wires, left)))


def test_every_end_is_reached(worlds):
    still = {views for views, wires, _ in worlds if wires == ((), ())}
    ends = {views for views in still if CLOSED not in views and view(Role.REQUESTER, views[0]).over}
    reached = {state for views in ends for state in views[0]}
    assert {State.SETTLED, State.REFUSED, State.FAILED} <= reached
    assert (CLOSED, CLOSED) in still


def test_a_stream_closed_while_idle_may_have_an_offer_under_way_and_is_closed_by_both_in_the_end(worlds):
    crossed = {(views, wires) for views, wires, _ in worlds if "offer" in wires[0] and CLOSE in wires[1]}
    assert crossed
    for views, wires, _ in worlds:
        if wires == ((), ()):
            assert (views[0] is CLOSED) == (views[1] is CLOSED)
