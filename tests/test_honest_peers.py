"""Two honest peers never convict each other, however their messages cross on the wire.

Every interleaving of sends and deliveries until nothing new is reached, not a sample: the space is small, because what
may be repeated (LOADING, PROGRESS, CHUNK, ACK, CANCEL) is said at most REPEATS times.
"""

import pytest

from protocol.errors import LocalProtocolError
from protocol.wire.conversation import KINDS, Conversation, Role, State

REPEATS = 2
REPEATED = ("loading", "progress", "chunk", "ack", "cancel")
ONCE_ONLY = KINDS - set(REPEATED)


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
        if wires[far]:
            here = view(role, views[index])
            kind, *rest = wires[far]
            here.received(kind, now_us=0)  # must not raise: the sender was honest
            yield put(views, index, seen_by(here)), put(wires, far, tuple(rest)), left
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


def put(items, index, item):
    return (*items[:index], item, *items[index + 1 :])


@pytest.fixture(scope="module")
def worlds():
    idle = (State.IDLE, State.IDLE)
    start = ((idle, idle), ((), ()), (REPEATS,) * len(REPEATED))
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
        if wires == ((), ()) and not view(Role.REQUESTER, views[0]).over:
            assert any(True for _ in steps((views, wires, left)))


def test_every_end_is_reached(worlds):
    ends = {views for views, wires, _ in worlds if wires == ((), ()) and view(Role.REQUESTER, views[0]).over}
    reached = {state for views in ends for state in views[0]}
    assert {State.SETTLED, State.REFUSED, State.FAILED} <= reached
