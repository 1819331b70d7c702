from protocol.policy.refusals import nobody_drew

NAMED = "This peer renders for named peers only."
DEAR = "This picture costs 2 credits here; 1 credit was offered at most."


def test_a_single_refusal_is_what_that_peer_said():
    assert nobody_drew([("oak", NAMED)]) == NAMED


def test_several_are_told_by_what_they_said_the_most_common_first():
    assert nobody_drew([("oak", DEAR), ("elm", NAMED), ("fir", NAMED)]) == (
        f"Everyone who was asked refused. elm, fir: {NAMED} oak: {DEAR}"
    )


def test_a_crowd_makes_no_longer_sentence():
    crowd = [(f"peer {number}", NAMED) for number in range(9)]
    assert nobody_drew(crowd) == f"Everyone who was asked refused. peer 0, peer 1, peer 2 and 6 more: {NAMED}"
    alone = [(f"peer {number}", f"No. {number}.") for number in range(9)]
    assert nobody_drew(alone).endswith("peer 0: No. 0. peer 1: No. 1. peer 2: No. 2.")


def test_who_refused_is_told_apart_from_who_was_lost():
    assert nobody_drew([("oak", NAMED), ("elm", "nothing was heard in time")], refused=False) == (
        f"Nobody who was asked drew it. oak: {NAMED} elm: nothing was heard in time."
    )
    assert nobody_drew([("oak", "No memory."), ("elm", "No memory.")], refused=False) == "No memory."
