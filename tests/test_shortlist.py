"""Shortlists: which plans look at everyone."""

import pytest

from protocol.policy.selection import NoCandidate
from protocol.policy.shortlist import LASTS_US, LENGTH, Shortlists

from .truth import candidate, statement

S = 1_000_000


class Known:
    """A directory of peers, the nearest first, that notes at how many it was looked."""

    def __init__(self, count):
        self.peers = {f"{number:04}": candidate(f"{number:04}", 1000 + number) for number in range(count)}
        self.looked = []

    def candidates(self, now_us, *, own, among=None):
        found = tuple(each for peer, each in self.peers.items() if among is None or peer in among)
        self.looked.append(len(found))
        return found


def chosen(lists, known, now_us, excluded=frozenset(), **changes):
    what = lists.plan(known, statement(**changes), now_us=now_us, own=False, excluded=excluded, seed=1)
    return what.ranked[0].peer


def test_among_many_only_the_best_are_looked_at_again_for_a_while():
    lists, known = Shortlists(), Known(300)
    assert [chosen(lists, known, at_us) for at_us in (0, 1, LASTS_US - 1, LASTS_US)] == ["0000"] * 4
    assert known.looked == [300, LENGTH, LENGTH, 300]


def test_each_kind_of_picture_has_a_list_of_its_own():
    lists, known = Shortlists(), Known(300)
    chosen(lists, known, 0)
    chosen(lists, known, 1, width=2048)
    assert known.looked == [300, 300]


def test_among_few_everyone_is_looked_at_always():
    lists, known = Shortlists(), Known(LENGTH)
    chosen(lists, known, 0)
    chosen(lists, known, 1)
    assert known.looked == [LENGTH, LENGTH]


def test_where_nobody_of_the_list_is_left_all_are_looked_at():
    lists, known = Shortlists(), Known(300)
    chosen(lists, known, 0)
    first = frozenset(f"{number:04}" for number in range(LENGTH))
    assert chosen(lists, known, 1, excluded=first) in (f"{LENGTH:04}", f"{LENGTH + 1:04}")  # alike to the us
    with pytest.raises(NoCandidate):
        chosen(lists, known, 2, excluded=frozenset(known.peers))
