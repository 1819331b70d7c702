"""One picture over many attempts: the job machine alone, events in and actions out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.policy.job import (
    MAX_ATTEMPTS,
    MAX_REDIRECTS,
    MAX_RESUMES,
    REFUSED_AT_MOST,
    RESUME_WITHIN_US,
    CancelAttempt,
    Finish,
    GiveUp,
    Job,
    MakeOffer,
    Penalise,
    Replan,
    ResumeTransfer,
    State,
    Tell,
)

PEERS = ("near", "middle", "far")
WORKING = (State.OFFERED, State.RUNNING, State.RECEIVING)


def offered(peer="near"):
    job = Job()
    job.start()
    job.on_plan(peer)
    return job


def receiving():
    job = offered()
    job.on_accepted()
    job.on_result()
    return job


def without_words(actions):
    return [action for action in actions if not isinstance(action, Tell)]


def answer(job, replan, peers=PEERS):
    """What selection would say: the nearest that is not excluded."""
    left = [peer for peer in peers if peer not in replan.excluded]
    return job.on_plan(left[0]) if left else job.on_no_candidate("Nobody else can draw this.")


def test_a_picture_at_the_first_attempt():
    job = Job()
    assert job.start() == [Replan(frozenset())]
    assert job.on_plan("near") == [MakeOffer("near", 1, forced=False)]
    assert job.on_accepted() == []
    assert job.on_result() == []
    assert job.on_checked() == [Finish()]
    assert job.over


def test_after_three_busy_peers_the_next_may_not_refuse():
    job = Job()
    job.start()
    for number in range(1, MAX_REDIRECTS + 1):
        assert job.on_plan(f"peer{number}") == [MakeOffer(f"peer{number}", number, forced=False)]
        said, replan = job.on_refused(busy=True, sentence="Busy.")
        assert isinstance(said, Tell)
        assert replan == Replan(frozenset())  # each told how busy it is: it may still be the best
    assert job.on_plan("fourth") == [MakeOffer("fourth", MAX_REDIRECTS + 1, forced=True)]


def test_a_peer_that_refused_twice_or_though_it_was_forced_is_passed_over():
    job = offered()
    *_, replan = job.on_refused(busy=True, sentence="Busy.")
    assert replan == Replan(frozenset())
    job.on_plan("near")
    *_, replan = job.on_refused(busy=True, sentence="Busy.")
    assert replan == Replan(frozenset({"near"}))
    job.on_plan("far")
    job.on_refused(busy=True, sentence="Busy.")
    assert job.on_plan("middle") == [MakeOffer("middle", 4, forced=True)]
    *_, replan = job.on_refused(busy=True, sentence="Busy.")
    assert replan == Replan(frozenset({"near", "middle"}))


def test_peers_that_were_all_busy_are_asked_again_and_may_not_refuse_for_that():
    job = offered()
    for _ in range(REFUSED_AT_MOST - 1):
        job.on_refused(busy=True, sentence="Busy.")
        job.on_plan("near")
    job.on_refused(busy=True, sentence="Busy.")
    assert job.on_no_candidate("Nobody else.") == [Replan(frozenset())]
    assert job.on_plan("near") == [MakeOffer("near", REFUSED_AT_MOST + 1, forced=True)]


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
            actions = without_words(job.on_refused(busy=True, sentence="Busy."))
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
            actions = without_words(job.on_refused(busy=True, sentence="Busy."))
        if isinstance(actions[0], Replan):
            replan = actions[0]
    assert job.state is State.FAILED
    assert job.attempts <= MAX_REDIRECTS + 1


def test_a_peer_that_never_will_is_not_asked_again():
    job = offered()
    *_, replan = job.on_refused(busy=False, sentence="This peer does not have that model.")
    assert replan == Replan(frozenset({"near"}))
    assert job.on_no_candidate("Nobody else.") == [GiveUp("This peer does not have that model.")]


def test_a_lost_peer_is_avoided_and_the_picture_planned_anew():
    job = offered()
    job.on_accepted()
    assert without_words(job.on_lost("the connection was lost")) == [
        Penalise("near"),
        Replan(frozenset({"near"})),
    ]


def test_a_broken_transfer_is_resumed_three_times_and_then_drawn_elsewhere():
    job = receiving()
    for _ in range(MAX_RESUMES):
        assert without_words(job.on_lost("the connection was lost")) == [
            ResumeTransfer("near", 1, RESUME_WITHIN_US)
        ]
    assert without_words(job.on_lost("the connection was lost")) == [
        Penalise("near"),
        Replan(frozenset({"near"})),
    ]


def test_a_peer_that_did_not_come_back_in_time_is_not_waited_for_again():
    job = receiving()
    job.on_lost("the connection was lost")
    actions = without_words(job.on_lost("no answer", resumable=False))
    assert actions == [Penalise("near"), Replan(frozenset({"near"}))]


def test_the_next_attempt_may_be_resumed_as_often():
    job = receiving()
    for _ in range(MAX_RESUMES + 1):
        job.on_lost("the connection was lost")
    job.on_plan("far")
    job.on_accepted()
    job.on_result()
    assert ResumeTransfer("far", 2, RESUME_WITHIN_US) in job.on_lost("the connection was lost")


def test_what_the_requester_did_wrong_is_asked_of_nobody_else():
    job = offered()
    job.on_accepted()
    assert job.on_failed(requesters_fault=True, sentence="The prompt is too long.") == [
        GiveUp("The prompt is too long.")
    ]


def test_what_the_provider_did_wrong_is_asked_of_another():
    job = offered()
    job.on_accepted()
    actions = without_words(job.on_failed(requesters_fault=False, sentence="Out of memory."))
    assert actions == [Penalise("near"), Replan(frozenset({"near"}))]


def test_a_bad_result_is_not_fetched_again():
    job = receiving()
    actions = without_words(job.on_bad_result("the bytes are not those of the announced hash"))
    assert actions == [Penalise("near"), Replan(frozenset({"near"}))]


def test_when_nobody_is_left_the_sentence_is_that_of_the_last_attempt():
    job = Job()
    job.start()
    assert job.on_no_candidate("Nobody offers this model.") == [GiveUp("Nobody offers this model.")]
    job = offered()
    job.on_bad_result("the receipt is for other pixels")
    assert job.on_no_candidate("Nobody else.") == [GiveUp("the receipt is for other pixels")]


def test_attempts_are_bounded():
    job = Job()
    job.start()
    for number in range(MAX_ATTEMPTS):
        job.on_plan(f"peer{number}")
        actions = job.on_failed(requesters_fault=False, sentence="Out of memory.")
    assert isinstance(actions[-1], GiveUp)
    assert job.state is State.FAILED


@pytest.mark.parametrize("state", [*WORKING, State.PLANNING])
def test_cancelling_stops_the_attempt_where_there_is_one(state):
    job = Job()
    job.start()
    if state is not State.PLANNING:
        job.on_plan("near")
    if state in (State.RUNNING, State.RECEIVING):
        job.on_accepted()
    if state is State.RECEIVING:
        job.on_result()
    assert job.cancel() == ([] if state is State.PLANNING else [CancelAttempt("near")])
    assert job.over
    assert job.cancel() == []


def test_an_event_at_the_wrong_time_is_our_own_fault():
    with pytest.raises(LocalProtocolError):
        Job().on_accepted()
    with pytest.raises(LocalProtocolError):
        offered().on_checked()
    with pytest.raises(LocalProtocolError):
        Job().on_lost("the connection was lost")


EVENTS = {
    State.OFFERED: ("accepted", "busy", "never", "failed", "lost", "bad", "cancel"),
    State.RUNNING: ("result", "failed", "our_fault", "lost", "bad", "cancel"),
    State.RECEIVING: ("checked", "failed", "lost", "bad", "cancel"),
}


@given(st.lists(st.sampled_from(PEERS), unique=True), st.data())
def test_whatever_happens_a_job_ends_and_says_how(peers, data):
    job = Job()
    actions, steps = job.start(), 0
    while not job.over:
        steps += 1
        assert steps < 10 * MAX_ATTEMPTS * (MAX_RESUMES + 3)
        (last,) = [each for each in actions if not isinstance(each, Tell | Penalise)] or [None]
        if isinstance(last, Replan):
            actions = answer(job, last, peers)
            continue
        event = data.draw(st.sampled_from(EVENTS[job.state]))
        actions = {
            "accepted": job.on_accepted,
            "result": job.on_result,
            "checked": job.on_checked,
            "cancel": job.cancel,
            "busy": lambda: job.on_refused(busy=True, sentence="Busy."),
            "never": lambda: job.on_refused(busy=False, sentence="No such model."),
            "failed": lambda: job.on_failed(requesters_fault=False, sentence="Out of memory."),
            "our_fault": lambda: job.on_failed(requesters_fault=True, sentence="Too long."),
            "lost": lambda: job.on_lost("the connection was lost", resumable=data.draw(st.booleans())),
            "bad": lambda: job.on_bad_result("the bytes are others"),
        }[event]()
    assert job.attempts <= MAX_ATTEMPTS
    if job.state is State.DONE:
        assert actions == [Finish()]
    elif job.state is State.FAILED:
        assert isinstance(actions[-1], GiveUp)
        assert actions[-1].sentence
    else:
        assert job.state is State.CANCELLED


def test_when_all_are_busy_even_so_what_the_last_of_them_said_is_the_sentence():
    job = Job()
    job.start()
    for asked in ("a", "a"):
        job.on_plan(asked)
        job.on_refused(busy=True, sentence="16 tasks wait here already, the most it takes.")
        last = job.on_no_candidate("Nobody is left.")
    assert last == [GiveUp("16 tasks wait here already, the most it takes.")]
