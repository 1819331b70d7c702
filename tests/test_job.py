"""One picture over many attempts: the job machine alone, events in and actions out."""

import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.policy.job import (
    ENOUGH_SAY,
    HEDGE_RTT_PERCENT,
    HEDGE_SLACK_US,
    MAX_ATTEMPTS,
    MAX_HEDGES,
    MAX_REDIRECTS,
    MAX_RESUMES,
    MAX_UNTAKEN,
    REFUSED_AT_MOST,
    RESUME_WITHIN_US,
    STALE_US,
    CancelAttempt,
    Excuse,
    Finish,
    GiveUp,
    HedgeAt,
    Job,
    MakeOffer,
    Penalise,
    PlanHedge,
    Prospect,
    Replan,
    ResumeTransfer,
    State,
    Tell,
)
from protocol.policy.selection import Choice

from .truth import prediction

PEERS = ("near", "middle", "far")
RTT_US, START_IN_US, REST_US = 20_000, 100_000, 1_000_000
GRACE_US = HEDGE_SLACK_US + RTT_US * HEDGE_RTT_PERCENT // 100
DUE_US = START_IN_US + GRACE_US  # of what was offered at 0


def prospect(peer, *, start_in_us=START_IN_US, rest_us=REST_US, busy=False, stale=False):
    return Prospect(peer, RTT_US, start_in_us, rest_us, busy, stale)


def planned(job, peer):
    return without_words(job.on_plan(prospect(peer), 0))


def offered(peer="near"):
    job = Job()
    job.start()
    planned(job, peer)
    return job


def receiving():
    job = offered()
    job.on_accepted(job.attempts, START_IN_US)
    job.on_result(job.attempts)
    return job


def without_words(actions):
    return [action for action in actions if not isinstance(action, Tell | HedgeAt)]


def answer(job, replan, peers=PEERS):
    """What selection would say: the nearest that is not excluded."""
    left = [peer for peer in peers if peer not in replan.excluded]
    return planned(job, left[0]) if left else job.on_no_candidate("Nobody else can draw this.")


def test_a_picture_at_the_first_attempt():
    job = Job()
    assert job.start() == [Replan(frozenset())]
    assert planned(job, "near") == [MakeOffer("near", 1, forced=False)]
    assert job.on_accepted(1, START_IN_US) == [HedgeAt(1, DUE_US)]
    assert job.on_start(1) == []
    assert job.on_result(1) == []
    assert job.on_checked(job.attempts) == [Finish()]
    assert job.over


def test_after_three_busy_peers_the_next_may_not_refuse():
    job = Job()
    job.start()
    for number in range(1, MAX_REDIRECTS + 1):
        assert planned(job, f"peer{number}") == [MakeOffer(f"peer{number}", number, forced=False)]
        said, replan = job.on_refused(job.attempts, busy=True, sentence="Busy.")
        assert isinstance(said, Tell)
        assert replan == Replan(frozenset())  # each told how busy it is: it may still be the best
    assert planned(job, "fourth") == [MakeOffer("fourth", MAX_REDIRECTS + 1, forced=True)]


def test_a_peer_that_refused_twice_or_though_it_was_forced_is_passed_over():
    job = offered()
    *_, replan = job.on_refused(job.attempts, busy=True, sentence="Busy.")
    assert replan == Replan(frozenset())
    planned(job, "near")
    *_, replan = job.on_refused(job.attempts, busy=True, sentence="Busy.")
    assert replan == Replan(frozenset({"near"}))
    planned(job, "far")
    job.on_refused(job.attempts, busy=True, sentence="Busy.")
    assert planned(job, "middle") == [MakeOffer("middle", 4, forced=True)]
    *_, replan = job.on_refused(job.attempts, busy=True, sentence="Busy.")
    assert replan == Replan(frozenset({"near", "middle"}))


def test_peers_that_were_all_busy_are_asked_again_and_may_not_refuse_for_that():
    job = offered()
    for _ in range(REFUSED_AT_MOST - 1):
        job.on_refused(job.attempts, busy=True, sentence="Busy.")
        planned(job, "near")
    job.on_refused(job.attempts, busy=True, sentence="Busy.")
    assert job.on_no_candidate("Nobody else.") == [Replan(frozenset())]
    assert planned(job, "near") == [MakeOffer("near", REFUSED_AT_MOST + 1, forced=True)]


@pytest.mark.parametrize("count", range(1, MAX_ATTEMPTS // 2 + 1))
def test_however_few_the_busy_peers_are_one_of_them_is_made_to_take_it(count):
    job, replan = Job(), Replan(frozenset())
    peers = tuple(f"peer{number}" for number in range(count))
    job.start()
    offers = []
    while True:
        actions = without_words(answer(job, replan, peers))
        if isinstance(actions[0], MakeOffer):
            offers.append(actions[0])
            if actions[0].forced:
                break
            actions = without_words(job.on_refused(job.attempts, busy=True, sentence="Busy."))
        assert isinstance(actions[0], Replan)
        replan = actions[0]
    assert [offer.forced for offer in offers] == [False] * min(count * REFUSED_AT_MOST, MAX_REDIRECTS) + [
        True
    ]


def test_a_peer_that_is_busy_though_forced_is_not_asked_for_ever():
    job, replan = Job(), Replan(frozenset())
    job.start()
    while not job.over:
        actions = without_words(answer(job, replan, ("near",)))
        if isinstance(actions[0], MakeOffer):
            actions = without_words(job.on_refused(job.attempts, busy=True, sentence="Busy."))
        if isinstance(actions[0], Replan):
            replan = actions[0]
    assert job.state is State.FAILED
    assert job.attempts <= MAX_REDIRECTS + 1


def test_a_peer_that_never_will_is_not_asked_again():
    job = offered()
    *_, replan = job.on_refused(job.attempts, busy=False, sentence="This peer does not have that model.")
    assert replan == Replan(frozenset({"near"}))
    assert job.on_no_candidate("Nobody else.") == [GiveUp("This peer does not have that model.")]


def test_a_lost_peer_is_avoided_and_the_picture_planned_anew():
    job = offered()
    job.on_accepted(job.attempts, START_IN_US)
    assert without_words(job.on_lost(job.attempts, "the connection was lost", 0)) == [
        Penalise("near"),
        Replan(frozenset({"near"})),
    ]


def test_a_broken_transfer_is_resumed_three_times_and_then_drawn_elsewhere():
    job = receiving()
    for _ in range(MAX_RESUMES):
        assert without_words(job.on_lost(job.attempts, "the connection was lost", 0)) == [
            ResumeTransfer("near", 1, RESUME_WITHIN_US)
        ]
    assert without_words(job.on_lost(job.attempts, "the connection was lost", 0)) == [
        Penalise("near"),
        Replan(frozenset({"near"})),
    ]


def test_a_peer_that_did_not_come_back_in_time_is_not_waited_for_again():
    job = receiving()
    job.on_lost(job.attempts, "the connection was lost", 0)
    actions = without_words(job.on_lost(job.attempts, "no answer", 0, resumable=False))
    assert actions == [Penalise("near"), Replan(frozenset({"near"}))]


def test_who_was_lost_after_its_start_is_asked_again_once_where_nobody_else_is_left():
    job = offered()
    job.on_accepted(1, START_IN_US)
    job.on_start(1)
    job.on_lost(1, "nothing was heard in time", 0)
    assert job.on_no_candidate("Nobody else.") == [Replan(frozenset())]
    assert planned(job, "near") == [MakeOffer("near", 2, forced=True)]
    job.on_lost(2, "nothing listens there", 0)
    assert job.on_no_candidate("Nobody else.") == [GiveUp("nothing listens there")]


def away():
    """Its connection broke at 0, while the picture was coming."""
    job = receiving()
    job.on_lost(1, "the connection was lost", 0)
    return job


def test_another_peer_is_asked_beside_one_that_was_away_for_as_long_as_the_other_takes():
    job = receiving()
    assert job.on_lost(1, "the connection was lost", 0)[-1] == HedgeAt(1, GRACE_US)
    assert job.on_hedge_due(1, GRACE_US) == [PlanHedge(1, frozenset({"near"}))]
    other = prospect("far")
    assert job.on_hedge_plan(other, GRACE_US) == [HedgeAt(1, other.total_us + 1)]
    assert job.on_hedge_due(1, other.total_us + 1) == [PlanHedge(1, frozenset({"near"}))]
    actions = job.on_hedge_plan(other, other.total_us + 1)
    assert without_words(actions) == [MakeOffer("far", 2, forced=False, hedge=True)]


def test_who_comes_back_needs_no_other():
    job = away()
    assert job.on_result(1) == []
    assert job.on_hedge_due(1, 10 * REST_US) == []
    job = away()
    job.on_hedge_due(1, 2 * REST_US)
    job.on_hedge_plan(prospect("far"), 2 * REST_US)
    assert job.on_result(1) == [CancelAttempt("far", 2)]


def beside_one_that_is_away():
    job = away()
    job.on_hedge_due(1, 2 * REST_US)
    job.on_hedge_plan(prospect("far"), 2 * REST_US)
    job.on_accepted(2, 3 * REST_US)
    assert job.on_start(2) == []
    return job


def test_of_one_that_is_away_and_one_that_draws_beside_it_the_first_picture_is_taken():
    job = beside_one_that_is_away()
    assert job.on_result(1) == []  # its line may break again
    assert job.on_checked(1) == [CancelAttempt("far", 2), Finish()]
    job = beside_one_that_is_away()
    job.on_result(2)
    job.on_result(1)
    assert job.on_checked(2) == [CancelAttempt("near", 1), Finish()]
    assert job.on_checked(1) == []


def test_who_is_away_is_still_waited_for_where_the_one_beside_it_is_lost():
    job = beside_one_that_is_away()
    actions = job.on_lost(2, "the connection was lost", 3 * REST_US)
    assert [type(each) for each in actions] == [Penalise, Tell, HedgeAt]
    assert job.under_way == (1,)
    assert job.on_lost(1, "it did not come back", 4 * REST_US, resumable=False)[-1] == Replan(
        frozenset({"near", "far"})
    )


def test_who_has_the_picture_needs_no_other_even_if_it_never_said_that_it_was_back():
    job = away()
    job.on_hedge_due(1, 2 * REST_US)
    job.on_hedge_plan(prospect("far"), 2 * REST_US)
    assert job.on_checked(1) == [CancelAttempt("far", 2), Finish()]
    assert job.under_way == ()


def test_a_path_that_breaks_again_has_been_away_since_it_broke_first():
    job = away()
    assert job.on_lost(1, "the connection was lost", GRACE_US)[-1] == HedgeAt(1, GRACE_US)


def test_the_next_attempt_may_be_resumed_as_often():
    job = receiving()
    for _ in range(MAX_RESUMES + 1):
        job.on_lost(job.attempts, "the connection was lost", 0)
    planned(job, "far")
    job.on_accepted(job.attempts, START_IN_US)
    job.on_result(job.attempts)
    assert ResumeTransfer("far", 2, RESUME_WITHIN_US) in job.on_lost(
        job.attempts, "the connection was lost", 0
    )


def blamed(first="near"):
    job = offered(first)
    job.on_accepted(job.attempts, START_IN_US)
    actions = job.on_failed(job.attempts, fault="requester", sentence="The prompt is too long.")
    assert without_words(actions) == [Replan(frozenset({first}))]
    return job


def test_what_two_say_that_the_requester_did_wrong_is_asked_of_nobody_else():
    job = blamed()
    planned(job, "middle")
    job.on_accepted(job.attempts, START_IN_US)
    assert job.on_failed(job.attempts, fault="requester", sentence="It is far too long.") == [
        GiveUp("It is far too long.")
    ]


def test_what_one_says_that_the_requester_did_wrong_is_the_sentence_where_nobody_else_can_be_asked():
    assert blamed().on_no_candidate("Nobody else.") == [GiveUp("The prompt is too long.")]


def test_who_says_that_the_requester_did_wrong_what_another_draws_is_avoided():
    job = blamed()
    planned(job, "middle")
    job.on_accepted(job.attempts, START_IN_US)
    job.on_result(job.attempts)
    assert job.on_checked(job.attempts) == [Penalise("near"), Finish()]


@pytest.mark.parametrize(
    ("fault", "started", "avoided"),
    [
        ("provider", False, Penalise),
        ("provider", True, Penalise),
        ("nobody", False, Excuse),
        ("nobody", True, Excuse),
        ("requester", True, Penalise),
    ],
)
def test_what_a_provider_did_not_deliver_is_asked_of_another(fault, started, avoided):
    job = offered()
    job.on_accepted(job.attempts, START_IN_US)
    if started:  # the renderer found nothing in it that it cannot do
        job.on_start(job.attempts)
    actions = without_words(job.on_failed(job.attempts, fault=fault, sentence="Out of memory."))
    assert actions == [avoided("near"), Replan(frozenset({"near"}))]


def test_a_bad_result_is_not_fetched_again():
    job = receiving()
    actions = without_words(job.on_bad_result(job.attempts, "the bytes are not those of the announced hash"))
    assert actions == [Penalise("near"), Replan(frozenset({"near"}))]


def test_when_nobody_is_left_the_sentence_is_that_of_the_last_attempt():
    job = Job()
    job.start()
    assert job.on_no_candidate("Nobody offers this model.") == [GiveUp("Nobody offers this model.")]
    job = offered()
    job.on_bad_result(job.attempts, "the receipt is for other pixels")
    assert job.on_no_candidate("Nobody else.") == [GiveUp("the receipt is for other pixels")]


def test_attempts_are_bounded():
    job = Job()
    job.start()
    for number in range(MAX_ATTEMPTS):
        planned(job, f"peer{number}")
        actions = job.on_failed(job.attempts, fault="provider", sentence="Out of memory.")
    assert isinstance(actions[-1], GiveUp)
    assert job.state is State.FAILED


@pytest.mark.parametrize("events", range(5))
def test_cancelling_stops_the_attempt_where_there_is_one(events):
    job = Job()
    job.start()
    heard = [
        lambda: planned(job, "near"),
        lambda: job.on_accepted(1, START_IN_US),
        lambda: job.on_start(1),
        lambda: job.on_result(1),
    ]
    for hear in heard[:events]:
        hear()
    assert job.cancel() == ([CancelAttempt("near", 1)] if events else [])
    assert job.over
    assert job.cancel() == []


def test_an_event_at_the_wrong_time_is_our_own_fault():
    for wrong in (
        lambda: Job().on_accepted(1, 0),
        lambda: Job().on_lost(1, "the connection was lost", 0),
        lambda: Job().on_hedge_plan(None, 0),
        lambda: offered().on_start(1),
        lambda: offered().on_checked(1),
        lambda: offered().on_start(2),
        lambda: receiving().on_start(1),
        lambda: planned(offered(), "far"),
    ):
        with pytest.raises(LocalProtocolError):
            wrong()


def test_when_all_are_busy_even_so_what_the_last_of_them_said_is_the_sentence():
    job = Job()
    job.start()
    for asked in ("a", "a"):
        planned(job, asked)
        job.on_refused(job.attempts, busy=True, sentence="16 tasks wait here already, the most it takes.")
        last = job.on_no_candidate("Nobody is left.")
    assert last == [GiveUp("16 tasks wait here already, the most it takes.")]


def hedged(first="accepted"):
    """Two attempts: `first` is what is known of the one at "near"; the hedge was only just offered to "far"."""
    job = offered()
    if first == "accepted":
        job.on_accepted(1, START_IN_US)
    job.on_hedge_due(1, DUE_US)
    job.on_hedge_plan(prospect("far", start_in_us=10_000), DUE_US)
    return job


def test_a_start_is_late_by_what_has_passed_since_it_was_promised_or_predicted():
    job = offered()
    assert job.late_us(1, START_IN_US - 1) == 0
    assert job.late_us(1, START_IN_US + 7) == 7
    job.on_accepted(1, 500_000)
    assert job.late_us(1, 500_009) == 9


def test_a_hedge_is_due_when_the_start_is_later_than_the_way_and_a_little_more():
    job = Job()
    job.start()
    assert job.on_plan(prospect("near"), 7)[-1] == HedgeAt(1, 7 + DUE_US)
    # What ACCEPT promises is better known than what was predicted; the earlier time no longer counts.
    assert job.on_accepted(1, 500_000) == [HedgeAt(1, 500_000 + GRACE_US)]
    assert job.on_hedge_due(1, 7 + DUE_US) == []
    assert job.on_hedge_due(1, 500_000 + GRACE_US) == [PlanHedge(1, frozenset({"near"}))]


def test_a_hedge_is_asked_where_it_would_be_sooner_than_so_late_a_start_is_expected():
    job = offered()
    job.on_hedge_due(1, DUE_US)
    said, offer, again = job.on_hedge_plan(prospect("far", start_in_us=GRACE_US - 1), DUE_US)
    assert isinstance(said, Tell)
    assert offer == MakeOffer("far", 2, forced=False, hedge=True)
    assert again == HedgeAt(2, DUE_US + GRACE_US - 1 + GRACE_US)  # when both are late
    assert job.under_way == (1, 2)
    assert job.hedges == 1


def test_where_it_would_not_be_sooner_it_is_looked_at_again_when_it_would():
    job = offered()
    job.on_hedge_due(1, DUE_US)
    slow = prospect("far", start_in_us=START_IN_US, rest_us=REST_US + 1_000_000)
    (again,) = job.on_hedge_plan(slow, DUE_US)
    assert again == HedgeAt(1, START_IN_US + 1_100_001)
    assert job.on_hedge_due(1, DUE_US) == []
    job.on_hedge_due(1, again.at_us)
    assert MakeOffer("far", 2, forced=False, hedge=True) in job.on_hedge_plan(slow, again.at_us)


@pytest.mark.parametrize("found", [None, prospect("far", start_in_us=0, busy=True, stale=True)])
def test_where_nobody_is_left_or_all_are_busy_and_the_view_is_stale_it_is_looked_again_ever_more_seldom(
    found,
):
    job, due_us, looks = offered(), DUE_US, 0
    while due_us < 60_000_000:
        assert job.on_hedge_due(1, due_us) == [PlanHedge(1, frozenset({"near"}))]
        (again,) = job.on_hedge_plan(found, due_us)
        assert again.at_us - START_IN_US == 2 * (due_us - START_IN_US)
        due_us, looks = again.at_us, looks + 1
    assert looks < 12
    assert job.attempts == 1


@pytest.mark.parametrize(("busy", "stale"), [(True, False), (False, True)])
def test_busy_or_stale_alone_is_no_reason_against_a_hedge(busy, stale):
    job = offered()
    job.on_hedge_due(1, DUE_US)
    found = prospect("far", start_in_us=0, busy=busy, stale=stale)
    assert without_words(job.on_hedge_plan(found, DUE_US)) == [MakeOffer("far", 2, forced=False, hedge=True)]


@pytest.mark.parametrize(("first", "other"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("hear", ["start", "result"])
def test_who_starts_first_outruns_the_other_which_is_cancelled_and_not_avoided(first, other, hear):
    job = hedged()
    job.on_accepted(2, DUE_US)
    peers = {1: "near", 2: "far"}
    actions = job.on_start(first) if hear == "start" else job.on_result(first)
    assert actions == [CancelAttempt(peers[other], other)]
    assert job.under_way == (first,)
    assert job.on_start(other) == []  # it crossed the CANCEL
    assert job.on_failed(other, fault="provider", sentence="Cancelled.") == []
    assert job.on_lost(other, "the connection was lost", 0) == []  # once it said that it stopped
    job.on_result(first)
    assert job.on_checked(first) == [Finish()]


def test_who_was_outrun_and_is_then_found_gone_is_avoided_even_when_the_picture_is_there():
    job = hedged(first="offered")
    job.on_accepted(2, DUE_US)
    job.on_result(2)
    job.on_checked(2)
    assert job.on_lost(1, "nothing was heard in time", 0) == [Penalise("near")]
    assert job.on_lost(1, "nothing was heard in time", 0) == []


def test_of_two_attempts_one_may_end_and_the_other_is_waited_for_and_may_be_hedged_again():
    job = hedged()
    assert job.on_refused(2, busy=True, sentence="Busy.")[-1] == HedgeAt(1, DUE_US)
    assert job.state is State.WORKING
    assert job.hedges == 0  # nobody took it
    # Who was asked for this job and was busy is no hedge for it.
    assert job.on_hedge_due(1, DUE_US) == [PlanHedge(1, frozenset({"near", "far"}))]
    job.on_hedge_plan(prospect("middle", start_in_us=0), DUE_US)
    penalise, said, again = job.on_lost(1, "the connection was lost", 0)
    assert (penalise, type(said), again) == (Penalise("near"), Tell, HedgeAt(3, DUE_US + GRACE_US))
    assert job.under_way == (3,)
    assert job.on_accepted(3, DUE_US) == [HedgeAt(3, DUE_US + GRACE_US)]
    *_, replan = job.on_failed(3, fault="provider", sentence="Out of memory.")
    assert replan == Replan(frozenset({"near", "middle"}))


def test_where_all_that_is_under_way_is_late_one_more_is_asked_as_often_as_hedges_are_allowed():
    job, now_us = offered(), DUE_US
    for number in range(1, MAX_HEDGES + 1):
        asked = frozenset({"near", *(f"late{each}" for each in range(1, number))})
        assert job.on_hedge_due(number, now_us - 1) == []
        assert job.on_hedge_due(number, now_us) == [PlanHedge(number, asked)]
        again = job.on_hedge_plan(prospect(f"late{number}", start_in_us=0), now_us)[-1]
        now_us += GRACE_US
        assert (again == HedgeAt(number + 1, now_us)) == (number < MAX_HEDGES)
    assert job.under_way == tuple(range(1, MAX_HEDGES + 2))
    assert job.on_hedge_due(MAX_HEDGES + 1, 2 * now_us) == []
    job.on_accepted(3, now_us)
    cancelled = [
        (f"late{number - 1}" if number > 1 else "near", number) for number in job.under_way if number != 3
    ]
    assert job.on_start(3) == [CancelAttempt(*each) for each in cancelled]


def test_nobody_is_asked_beside_who_is_late_while_another_is_not_yet():
    job = hedged()
    job.on_accepted(2, 60_000_000)
    assert job.on_hedge_due(1, 50_000_000) == []
    assert job.on_hedge_due(2, 60_000_000 + GRACE_US) == [PlanHedge(2, frozenset({"near", "far"}))]


def test_offers_that_nobody_took_are_no_attempts_at_drawing_it_and_are_bounded():
    job, peers = Job(), []
    job.start()
    for number in range(1, MAX_UNTAKEN + 1):
        peers.append(f"peer{number}")
        planned(job, peers[-1])
        actions = without_words(job.on_refused(number, busy=False, sentence="No room."))
        if number < MAX_UNTAKEN:
            assert actions == [Replan(frozenset(peers))]
    assert [type(each) for each in actions] == [GiveUp]
    assert str(MAX_UNTAKEN) in actions[0].sentence


def test_a_refused_hedge_does_not_make_the_next_offer_forced():
    job = hedged()
    job.on_refused(2, busy=True, sentence="Busy.")
    for number in (1, 3):
        job.on_refused(number, busy=True, sentence="Busy.")
        assert planned(job, "middle") == [MakeOffer("middle", job.attempts, forced=False)]


def test_what_two_say_that_the_requester_did_wrong_ends_the_job_and_one_alone_does_not():
    job = hedged()
    job.on_accepted(2, START_IN_US)
    assert without_words(job.on_failed(1, fault="requester", sentence="Too long.")) == []
    assert job.on_failed(2, fault="requester", sentence="Too long.") == [GiveUp("Too long.")]


def test_cancelling_stops_both():
    assert hedged().cancel() == [CancelAttempt("near", 1), CancelAttempt("far", 2)]


def test_a_start_that_comes_while_a_hedge_is_planned_makes_it_needless():
    job = offered()
    job.on_accepted(1, START_IN_US)
    job.on_hedge_due(1, DUE_US)
    job.on_start(1)
    assert job.on_hedge_plan(prospect("far", start_in_us=0), DUE_US) == []


def test_who_is_asked_while_a_hedge_for_another_is_planned_can_be_hedged_too():
    job = offered()
    job.on_hedge_due(1, DUE_US)
    job.on_lost(1, "the connection was lost", 0)
    assert planned(job, "far") == [MakeOffer("far", 2, forced=False)]
    # The plan may have been for this one.
    assert job.on_hedge_plan(prospect("far", start_in_us=0), DUE_US) == [HedgeAt(2, DUE_US)]


def test_a_promise_that_comes_while_a_hedge_is_planned_is_waited_for():
    job = offered()
    job.on_hedge_due(1, DUE_US)
    job.on_accepted(1, 500_000)
    assert job.on_hedge_plan(prospect("far", start_in_us=0), DUE_US) == [HedgeAt(1, 500_000 + GRACE_US)]


def test_a_prospect_is_what_was_predicted_before_and_after_the_start():
    us = {
        "dial_us": 1,
        "offer_us": 2,
        "load_us": 8,
        "fixed_us": 16,
        "step_us": 8,
        "steps": 4,
        "transfer_us": 64,
    }
    choice = Choice("near", 9, 0, prediction(wait_us=4, **us))
    assert Prospect.of(choice, heard_us=0, now_us=STALE_US) == Prospect("near", 9, 15, 112, False, False)
    late = Prospect.of(
        choice._replace(prediction=prediction(wait_us=6, **us)), heard_us=0, now_us=STALE_US + 1
    )
    assert (late.busy, late.stale, late.total_us) == (True, True, 129)
    assert Prospect.of(choice, heard_us=None, now_us=0).stale


# Every interleaving: what may be heard of an attempt by how far its provider truly is, whether or not it was cancelled.
HEARD = {
    "offered": ("accepted", "busy", "never", "lost", "bad"),
    "accepted": ("started", "failed", "our_fault", "lost"),
    "started": ("received", "failed", "our_fault", "lost", "bad"),
    "received": ("received", "checked", "lost", "broke", "bad"),
    "ended": (),
}
GOES_ON = ("accepted", "started", "received")


class Swarm:
    """A job and the providers of its attempts; holds what must hold after every event."""

    def __init__(self, peers):
        self.peers = peers
        self.job = Job()
        self.far = []  # how far each attempt truly is
        self.who = []
        self.cancelled = Counter()
        self.faults = set()  # peers that were lost or failed
        self.blaming = set()  # peers that said before their start that it was the requester's fault
        self.away = set()  # attempts whose connection broke while the picture came
        self.due = {}  # when, by attempt
        self.now_us = DUE_US
        self.for_hedge = None
        self.finished = False
        self._carry_out(self.job.start())

    def key(self):
        state = {name: value for name, value in vars(self.job).items() if name != "_last_sentence"}
        sets = sorted(self.faults), sorted(self.blaming), sorted(self.away)
        return repr((state, self.far, self.who, self.due, self.for_hedge, sets, self.now_us))

    def possible(self):
        if not self.job.over:
            yield "cancel", None
        if self.for_hedge:
            yield "no_hedge", None
            yield "hedge", None
        for number, at_us in self.due.items():
            if at_us <= START_IN_US + 2 * GRACE_US:  # looked for twice: the third time is as the second
                yield "due", number
        for number, far in enumerate(self.far, 1):
            for event in HEARD[far]:
                if event != "checked" or number in self.job.under_way:
                    yield event, number

    def happen(self, event, number):
        job, ended = self.job, number is not None and number not in self.job.under_way
        if event == "cancel":
            alive = len(job.under_way)
            actions = job.cancel()
            assert len(actions) == alive
        elif event in ("no_hedge", "hedge"):
            asked, self.for_hedge = self.for_hedge, None
            left = [peer for peer in self.peers if peer not in asked.excluded]
            found = prospect(left[0], start_in_us=0) if left and event == "hedge" else None
            actions = job.on_hedge_plan(found, self.now_us)
        elif event == "due":
            self.now_us = self.due.pop(number)
            actions = job.on_hedge_due(number, self.now_us)
        else:
            if event == "our_fault" and self.far[number - 1] == "accepted":
                self.blaming.update([self.who[number - 1]] * (not ended))
            elif event in ("failed", "our_fault", "lost", "bad"):
                self.faults.add(self.who[number - 1])
            if event in GOES_ON:
                self.far[number - 1] = event
                self.away.discard(number)
            elif event != "broke":
                self.far[number - 1] = "ended"
            actions = {
                "accepted": lambda: job.on_accepted(number, START_IN_US),
                "started": lambda: job.on_start(number),
                "received": lambda: job.on_result(number),
                "checked": lambda: job.on_checked(number),
                "busy": lambda: job.on_refused(number, busy=True, sentence="Busy."),
                "never": lambda: job.on_refused(number, busy=False, sentence="No such model."),
                "failed": lambda: job.on_failed(number, fault="provider", sentence="Out of memory."),
                "our_fault": lambda: job.on_failed(number, fault="requester", sentence="Too long."),
                "lost": lambda: job.on_lost(number, "the connection was lost", 0, resumable=False),
                "broke": lambda: job.on_lost(number, "the connection was lost", 0),
                "bad": lambda: job.on_bad_result(number, "the bytes are others"),
            }[event]()
            if ended:  # what ended can no longer be heard, but for its loss
                assert actions in ([], [Penalise(self.who[number - 1])])
                assert not actions or event in ("lost", "broke")
        if event == "broke" and any(isinstance(each, ResumeTransfer) for each in actions):
            self.away.add(number)
        elif event == "broke":
            self.far[number - 1] = "ended"
            self.faults.add(self.who[number - 1])
        self._carry_out(actions, event)
        self._hold()

    def _carry_out(self, actions, event=None):
        job, over_at_first = self.job, self.job.over
        ends = [each for each in actions if isinstance(each, Finish | GiveUp)]
        assert len(ends) <= 1
        assert not ends or (actions[-1] is ends[0] and over_at_first)
        for action in actions:
            match action:
                case Replan(excluded):
                    assert not job.under_way
                    left = [peer for peer in self.peers if peer not in excluded]
                    self._carry_out(
                        job.on_plan(prospect(left[0]), 0) if left else job.on_no_candidate("Nobody else."),
                        event,
                    )
                case MakeOffer(peer, number):
                    assert number == len(self.who) + 1
                    assert peer not in [self.who[other - 1] for other in job.under_way if other != number]
                    self.who.append(peer)
                    self.far.append("offered")
                case PlanHedge():
                    assert self.for_hedge is None
                    self.for_hedge = action
                case HedgeAt(number, at_us):
                    self.due[number] = at_us
                case CancelAttempt(peer, number):
                    assert self.who[number - 1] == peer
                    assert number not in job.under_way
                    self.cancelled[number] += 1
                case Penalise(peer):
                    assert peer in self.faults or (peer in self.blaming and job.state is State.DONE)
                case Finish():
                    self.finished = True
                case GiveUp() if event == "our_fault":
                    nobody_left = not set(self.peers) - job._excluded()
                    assert len(self.blaming) == ENOUGH_SAY or nobody_left or len(self.far) >= MAX_ATTEMPTS

    def _hold(self):
        job, alive = self.job, self.job.under_way
        assert len(alive) <= 1 + MAX_HEDGES
        assert len(job._attempts) == len(self.far) <= MAX_ATTEMPTS + MAX_HEDGES + job._untaken
        assert job.hedges <= MAX_HEDGES
        assert job._untaken <= MAX_UNTAKEN
        far = Counter(self.far[each - 1] for each in alive)
        assert far["started"] <= 1
        if far["started"] or any(self.far[each - 1] == "received" for each in set(alive) - self.away):
            assert far["offered"] == far["accepted"] == 0  # nobody is left to begin with the same
        for number, far in enumerate(self.far, 1):
            assert far == "ended" or number in alive or self.cancelled[number] == 1
            assert self.cancelled[number] <= 1
        assert bool(alive) == (job.state is State.WORKING)
        assert job.over or alive
        assert self.finished == (job.state is State.DONE)
        # Where all are waited for and another may be asked, there is a time at which that is looked at.
        if (following := job._next_hedge()) is not None:
            assert self.due[following.number] == following.at_us


def test_every_interleaving_of_two_attempts_gives_one_picture_at_most_and_leaves_nobody_at_work():
    first = Swarm(PEERS)
    seen, left, ends = {first.key()}, [first], Counter()
    while left:
        swarm = left.pop()
        for event, number in swarm.possible():
            if event == "broke" and swarm.job._of(number).resumes:
                continue  # the second time is as the first: how often is held above
            after = pickle.loads(pickle.dumps(swarm))
            after.happen(event, number)
            key = after.key()
            if after.job.over:
                ends[after.job.state] += 1
            if key not in seen and len(after.far) <= 2:
                seen.add(key)
                left.append(after)
    assert set(ends) == {State.DONE, State.FAILED, State.CANCELLED}


@given(st.lists(st.sampled_from(PEERS), unique=True), st.data())
def test_whatever_happens_a_job_ends_and_says_how(peers, data):
    swarm, steps = Swarm(peers), 0
    while not swarm.job.over:
        steps += 1
        assert steps < 10 * MAX_ATTEMPTS * (MAX_RESUMES + 3)
        events = [each for each in swarm.possible() if each[0] != "no_hedge"]
        swarm.happen(*data.draw(st.sampled_from(events)))
    for event, number in list(swarm.possible())[:1]:  # what is still heard changes nothing
        state = swarm.job.state
        swarm.happen(event, number)
        assert swarm.job.state is state
