import functools
from dataclasses import replace

import pytest

from protocol.errors import LocalProtocolError
from protocol.policy import directory as module
from protocol.policy.directory import PENALTY_HALVES_US, PENALTY_US, Directory, Verdict
from protocol.policy.prediction import predict
from protocol.policy.rtt import Rtt
from protocol.policy.trials import MAX_PENALTY_US, TRIAL_US
from protocol.wire.advert import MAX_SYNC_KNOWN, SignedAdvert, known_untrusted, sync_request
from protocol.wire.frames import FrameReader, pack
from protocol.wire.hello import WaitMessage
from protocol.wire.identity import peer_id_of, public_key_of

from .truth import MODEL, advert, live, statement

S = 1_000_000
HOUR_US = 3600 * S
WALL_US = 1_700_000_000 * S
OWN, NEAR, FAR = (bytes([number]) * 32 for number in (1, 2, 3))


@functools.cache
def peer(key):
    return peer_id_of(public_key_of(key))


@functools.cache
def signed(key=NEAR, epoch=1, sequence=1, issued_us=WALL_US, lifetime_s=180, name="a provider"):
    what = advert(boot_epoch=epoch, sequence=sequence, issued_us=issued_us, lifetime_s=lifetime_s, name=name)
    return SignedAdvert.sign(what, network="test", private_key=key)


def known(*adverts):
    directory = Directory(peer(OWN))
    for each in adverts:
        assert directory.on_advert(each, 0, WALL_US).fresh
    return directory


def only(directory, now_us=0):
    (candidate,) = directory.candidates(now_us)
    return candidate


def test_an_advert_makes_a_candidate_of_whom_nothing_else_is_known():
    candidate = only(known(signed()))
    assert candidate.peer == peer(NEAR)
    assert (candidate.rtt, candidate.state, candidate.connected, candidate.speeds) == (
        None,
        None,
        False,
        None,
    )


@pytest.mark.parametrize(
    ("epoch", "sequence", "outcome"),
    [(5, 5, "old"), (5, 4, "old"), (4, 9, "old"), (5, 6, "newer"), (6, 0, "newer")],
)
def test_the_newest_boot_and_sequence_win(epoch, sequence, outcome):
    directory = known(signed(epoch=5, sequence=5))
    assert directory.on_advert(signed(epoch=epoch, sequence=sequence), 1, WALL_US).outcome == outcome
    assert only(directory).advert.version == max((5, 5), (epoch, sequence))


def test_an_advert_expires_by_its_lifetime_since_it_was_heard():
    directory = known(signed())
    assert directory.expire(180 * S - 1) == ()
    assert len(directory.candidates(180 * S - 1)) == 1
    assert directory.candidates(180 * S) == ()
    assert directory.expire(180 * S) == (peer(NEAR),)
    assert directory.statistics()["peers"] == 0


def test_a_replay_neither_lengthens_a_life_nor_revives_the_forgotten():
    directory = known(signed())
    assert directory.on_advert(signed(), 179 * S, WALL_US).outcome == "old"
    directory.expire(180 * S)
    assert directory.on_advert(signed(), 181 * S, WALL_US).outcome == "old"
    assert directory.on_advert(signed(sequence=2), 182 * S, WALL_US).outcome == "new"


@pytest.mark.parametrize(
    ("ahead_us", "words"), [(HOUR_US, "60 min ahead of ours"), (-2 * HOUR_US, "2.0 h behind ours")]
)
def test_a_wrong_clock_is_named_and_the_peer_is_taken(ahead_us, words):
    directory = Directory(peer(OWN))
    verdict = directory.on_advert(signed(issued_us=WALL_US + ahead_us), 0, WALL_US)
    assert verdict.fresh
    assert words in verdict.note
    assert directory.notes() == only(directory).notes == (verdict.note,)
    directory.on_advert(signed(sequence=2), 1, WALL_US)
    assert directory.notes() == ()


def test_a_peer_without_a_name_is_called_by_the_end_of_its_id():
    nameless = signed(name="", issued_us=WALL_US + HOUR_US)
    note = Directory(peer(OWN)).on_advert(nameless, 0, WALL_US).note
    assert f"clock of ..{peer(NEAR)[-8:]} is" in note


@pytest.mark.parametrize("ahead_us", [600 * S, -600 * S])
def test_ten_minutes_are_not_worth_a_word(ahead_us):
    assert Directory(peer(OWN)).on_advert(signed(issued_us=WALL_US + ahead_us), 0, WALL_US) == Verdict("new")


def test_ones_own_advert_is_no_news_but_a_newer_one_means_a_shared_key():
    directory = Directory(peer(OWN))
    assert directory.on_advert(signed(OWN), 0, WALL_US) == Verdict("own")
    directory.on_own_advert(signed(OWN, sequence=3))
    assert directory.on_advert(signed(OWN, sequence=3), 0, WALL_US) == Verdict("own")
    assert "identity" in directory.on_advert(signed(OWN, sequence=4), 0, WALL_US).note
    assert len(directory.notes()) == 1


def test_ones_own_device_is_a_candidate_unless_it_is_not_wanted_and_never_expires():
    directory = known(signed())
    directory.on_own_advert(signed(OWN))
    directory.on_state(peer(OWN), live(), 0)
    directory.on_disconnected(peer(OWN))
    mine = next(each for each in directory.candidates(HOUR_US) if each.own)
    assert (mine.connected, mine.rtt_us, mine.state) == (True, 0, live())
    assert [each.own for each in directory.candidates(0, own=False)] == [False]


def test_the_number_of_peers_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_PEERS", 1)
    directory = known(signed())
    assert directory.on_advert(signed(FAR), 0, WALL_US).outcome == "full"
    assert directory.on_advert(signed(sequence=2), 0, WALL_US).outcome == "newer"
    directory.expire(180 * S)
    assert directory.on_advert(signed(FAR), 180 * S, WALL_US).outcome == "new"
    directory.expire(360 * S)
    assert len(directory._gone) == 1


def test_measurements_and_states_join_the_advert():
    directory = known(signed())
    directory.on_connected(peer(NEAR))
    directory.on_rtt(peer(NEAR), 5000, 10)
    directory.on_state(peer(NEAR), live(wait_us=7), 100)
    candidate = only(directory, 400)
    assert candidate.rtt == directory.rtt(peer(NEAR)) == Rtt(5000, 0, 1)
    assert (candidate.state, candidate.state_age_us, candidate.connected) == (live(wait_us=7), 300, True)


def test_a_wait_alone_leaves_the_rest_of_a_state_and_is_nothing_without_one():
    directory = known(signed())
    wait = WaitMessage(wait_us=9, running=2, queued=1)
    directory.on_wait(peer(NEAR), wait, 50)
    directory.on_wait("stranger", wait, 50)
    assert only(directory, 60).state is None
    directory.on_state(peer(NEAR), live(wait_us=7), 100)
    directory.on_wait(peer(NEAR), wait, 200)
    candidate = only(directory, 400)
    assert candidate.state == replace(live(wait_us=9), running=2, queued=1)
    assert candidate.state_age_us == 200


def test_ones_own_device_is_as_busy_as_it_says_whenever_it_is_a_candidate():
    told = [live(wait_us=7), live(wait_us=5), None]
    directory = Directory(peer(OWN), lambda: told.pop(0))
    directory.on_own_advert(signed(OWN))
    for now_us, wait_us, age_us in (10, 7, 0), (20, 5, 0), (30, 5, 10):
        candidate = only(directory, now_us)
        assert (candidate.state.wait_us, candidate.state_age_us) == (wait_us, age_us)
    assert directory.candidates(40, own=False) == ()  # and it is not asked


def test_the_wait_that_ones_own_work_makes_is_not_what_is_usual_there():
    directory = known(signed())
    directory.on_offered(peer(NEAR), b"1", 5, 0)
    # Longer than was thought.
    directory.on_state(peer(NEAR), replace(live(wait_us=1000), running=1, queued=0), 1)
    assert only(directory, 1).mean_wait_us == 0
    directory.on_state(peer(NEAR), replace(live(wait_us=1005), running=1, queued=1), 1)
    assert only(directory, 1).mean_wait_us == 500  # the mean of none and 1000


def test_a_disconnected_peer_keeps_its_distance_and_loses_its_state():
    directory = known(signed())
    directory.on_connected(peer(NEAR))
    directory.on_rtt(peer(NEAR), 5000, 10)
    directory.on_state(peer(NEAR), live(), 100)
    directory.on_disconnected(peer(NEAR))
    candidate = only(directory)
    assert (candidate.rtt, candidate.state, candidate.connected) == (Rtt(5000, 0, 1), None, False)


def test_what_strangers_say_leaves_no_trace():
    directory = Directory(peer(OWN))
    directory.on_rtt("stranger", 1, 0)
    directory.on_state("stranger", live(), 0)
    directory.on_penalty("stranger", 0)
    directory.on_offered("stranger", b"a", 1, 0)
    directory.on_ended("stranger", b"a", 0)
    directory.on_disconnected("stranger")
    assert directory._peers == {}


def test_a_connected_peer_may_be_measured_before_it_advertises():
    directory = Directory(peer(OWN))
    directory.on_connected(peer(NEAR))
    directory.on_rtt(peer(NEAR), 5000, 10)
    assert directory.candidates(10) == ()
    directory.on_advert(signed(), 20, WALL_US)
    assert only(directory).rtt == Rtt(5000, 0, 1)
    directory.expire(HOUR_US)
    directory.on_disconnected(peer(NEAR))
    assert directory._peers == {}


def test_own_work_there_counts_until_its_state_can_know_of_it():
    directory = known(signed())
    directory.on_rtt(peer(NEAR), S // 10, 0)
    directory.on_offered(peer(NEAR), b"1", 2 * S, S)
    assert only(directory, S).own_in_flight_us == 2 * S
    assert only(directory, 2 * S).own_in_flight_us == S
    directory.on_offered(peer(NEAR), b"2", 2 * S, 2 * S)
    assert only(directory, 2 * S).own_in_flight_us == 3 * S
    directory.on_state(peer(NEAR), live(), 2 * S + S // 20)  # on its way since before the second was heard of
    assert only(directory, 2 * S).own_in_flight_us == 2 * S
    directory.on_state(peer(NEAR), live(), 3 * S)
    assert only(directory, 3 * S).own_in_flight_us == 0


def test_work_that_ended_counts_no_longer():
    directory = known(signed())
    directory.on_offered(peer(NEAR), b"1", 2 * S, 0)
    directory.on_ended(peer(NEAR), b"1", 0)
    assert only(directory).own_in_flight_us == 0


def test_what_was_told_of_ones_own_work_is_taken_off_when_it_ends():
    directory = known(signed())
    directory.on_offered(peer(NEAR), b"1", 3 * S, 0)
    directory.on_state(peer(NEAR), replace(live(wait_us=4 * S), running=1, queued=0), S)
    directory.on_start(peer(NEAR), b"1", promised_us=0, took_us=0, now_us=S)
    directory.on_ended(peer(NEAR), b"1", 2 * S)
    candidate = only(directory, 2 * S)
    assert candidate.state.wait_us - candidate.state_age_us == 0  # 4 s told, 1 s of it passed, 3 s not needed
    assert candidate.mean_wait_us == 0


def test_the_work_of_others_stays_in_what_was_told():
    directory = known(signed())
    directory.on_offered(peer(NEAR), b"1", 3 * S, 0)
    directory.on_state(peer(NEAR), replace(live(wait_us=5 * S), running=1, queued=1), S)
    assert only(directory, S).mean_wait_us == 2 * S
    directory.on_ended(peer(NEAR), b"1", 2 * S)  # it never began
    directory.on_ended(peer(NEAR), b"1", 2 * S)
    assert only(directory, 2 * S).state.wait_us == 2 * S


def met():
    """A connected peer of which a picture came, so that only what it does itself counts."""
    directory = known(signed(lifetime_s=60_000))
    directory.on_connected(peer(NEAR))
    directory.on_drawn(peer(NEAR), 0)
    return directory


def test_whoever_fails_by_nobodys_fault_is_avoided_from_the_second_time_without_a_picture_between():
    directory = met()
    for at_us in (0, HOUR_US // 2):
        directory.on_excuse(peer(NEAR), at_us)
        assert only(directory, at_us).penalty_us == 0
        directory.on_drawn(peer(NEAR), at_us)
    directory.on_excuse(peer(NEAR), HOUR_US)
    assert only(directory, HOUR_US).penalty_us == 0
    directory.on_excuse(peer(NEAR), HOUR_US + 1000 * S)
    assert only(directory, HOUR_US + 1000 * S).penalty_us == PENALTY_US
    directory.on_excuse("stranger", 0)


def test_whoever_fails_again_and_again_is_avoided_four_times_as_long_until_it_draws():
    directory = met()
    for times in range(3):
        directory.on_penalty(peer(NEAR), times * HOUR_US)
        left_us = only(directory, times * HOUR_US + 4**times * PENALTY_HALVES_US).penalty_us
        assert PENALTY_US // 2 <= left_us < PENALTY_US // 2 + S
    directory.on_drawn(peer(NEAR), 4 * HOUR_US)
    directory.on_penalty(peer(NEAR), 4 * HOUR_US)
    assert only(directory, 4 * HOUR_US + PENALTY_HALVES_US).penalty_us < PENALTY_US // 2 + S


def test_a_stranger_that_fails_has_strangers_from_there_avoided():
    directory = known(signed(), signed(FAR))
    directory.on_connected(peer(FAR))
    directory.on_excuse(peer(NEAR), 0)
    assert [each.penalty_us for each in directory.candidates(0)] == [TRIAL_US, 0]
    directory.on_penalty(peer(FAR), 0)
    assert [each.penalty_us for each in directory.candidates(0)] == [TRIAL_US, PENALTY_US + TRIAL_US]
    for each in (NEAR, FAR):
        directory.on_drawn(peer(each), 0)
    assert [each.penalty_us for each in directory.candidates(0)] == [0, PENALTY_US]
    directory.on_unreached(peer(NEAR), 0)
    directory.on_reached(peer(NEAR), 0)
    for tell in (directory.on_drawn, directory.on_reached, directory.on_unreached):
        tell("stranger", 0)


def test_a_penalty_halves_every_thirty_seconds_adds_up_and_is_bounded():
    directory = met()
    directory.on_penalty(peer(NEAR), 0)
    assert only(directory, 0).penalty_us == PENALTY_US
    assert only(directory, PENALTY_HALVES_US // 2).penalty_us == PENALTY_US * 3 // 4
    assert only(directory, PENALTY_HALVES_US).penalty_us == PENALTY_US // 2
    assert only(directory, 3 * PENALTY_HALVES_US).penalty_us == PENALTY_US // 8
    directory.on_penalty(peer(NEAR), PENALTY_HALVES_US)
    assert only(directory, PENALTY_HALVES_US).penalty_us == PENALTY_US * 3 // 2
    for _ in range(100):
        directory.on_penalty(peer(NEAR), PENALTY_HALVES_US)
    assert only(directory, PENALTY_HALVES_US).penalty_us == MAX_PENALTY_US
    assert (
        only(directory, PENALTY_HALVES_US * 65).penalty_us == MAX_PENALTY_US // 2
    )  # 64 times as long, at most


def test_sync_tells_what_is_newer_than_known_and_young_enough():
    directory = known(signed(), signed(FAR))
    directory.on_own_advert(signed(OWN))
    assert directory.versions() == {peer(NEAR): (1, 1), peer(FAR): (1, 1)}
    everything = [envelope.signer for envelope in directory.newer_than({}, 0)]
    assert everything[0] == peer(OWN)
    assert set(everything) == {peer(OWN), peer(NEAR), peer(FAR)}
    told = directory.newer_than({peer(NEAR): (1, 1), peer(FAR): (1, 0), peer(OWN): (2, 0)}, 0)
    assert [envelope.signer for envelope in told] == [peer(FAR)]
    assert [envelope.signer for envelope in directory.newer_than({}, 90 * S)] == [peer(OWN)]


def test_what_sync_tells_is_taken_by_the_other_side():
    here, there = known(signed()), Directory(peer(FAR))
    (envelope,) = here.newer_than(there.versions(), 0)
    again = SignedAdvert.from_untrusted(envelope.to_bytes(), network="test")
    assert there.on_advert(again, 0, WALL_US).outcome == "new"
    assert here.newer_than(there.versions(), 0) == []


def test_a_candidate_is_a_snapshot():
    directory = known(signed())
    before = only(directory)
    directory.on_rtt(peer(NEAR), 5000, 10)
    assert before.rtt is None
    with pytest.raises(AttributeError):
        before.rtt = None


def test_a_request_names_as_many_peers_as_it_may_those_heard_last_first(monkeypatch):
    monkeypatch.setattr(module, "MAX_SYNC_KNOWN", 2)
    directory = Directory(peer(OWN))
    keys = [bytes([number]) * 32 for number in range(2, 7)]
    for now_us, key in enumerate(keys):
        assert directory.on_advert(signed(key), now_us, WALL_US).fresh
    assert set(directory.versions()) == {peer(key) for key in keys[-2:]}


def test_a_request_of_a_full_directory_can_be_read_and_one_beyond_it_is_never_made():
    known = {base58(number): (2**64 - 1, 2**64 - 1) for number in range(MAX_SYNC_KNOWN)}
    (value,) = FrameReader().feed_untrusted(pack(sync_request(known)))
    assert known_untrusted(value) == known
    with pytest.raises(LocalProtocolError):
        sync_request(known | {base58(MAX_SYNC_KNOWN): (0, 0)})


def base58(number):
    """As long as any peer id."""
    return f"12D3KooW{number:044d}"


def test_a_peer_at_which_ones_own_task_should_have_begun_is_as_late_for_the_next():
    directory = known(signed())
    directory.on_offered(peer(NEAR), b"1", 5, 0)
    directory.on_accepted(peer(NEAR), b"1", S)
    assert [only(directory, now_us).late_us for now_us in (S, 3 * S)] == [0, 2 * S]
    directory.on_no_start(peer(NEAR), promised_us=S, took_us=3 * S, now_us=3 * S)
    directory.on_ended(peer(NEAR), b"1", 3 * S)
    assert only(directory, 3 * S).late_us == S  # half of it, as with a first start


@pytest.mark.parametrize(("max_wait_us", "late_us"), [(3 * S, 2 * S), (None, 4 * S), (S, 0)])
def test_a_peer_that_refuses_has_as_much_to_do_as_the_task_might_have_waited_or_takes(max_wait_us, late_us):
    directory = known(signed())
    directory.on_state(peer(NEAR), live(wait_us=S), 0)
    directory.on_refused(peer(NEAR), max_wait_us=max_wait_us, busy_us=5 * S, now_us=0)
    assert only(directory, 0).late_us == late_us


def test_what_a_peer_tells_of_a_delay_is_not_counted_beside_the_delay():
    directory = known(signed())
    directory.on_offered(peer(NEAR), b"1", S, 0)
    directory.on_accepted(peer(NEAR), b"1", S)
    directory.on_state(peer(NEAR), replace(live(wait_us=2 * S), running=1, queued=1), 4 * S)
    assert only(directory, 4 * S).late_us == S  # three seconds late, of which it told two
    assert only(directory, 5 * S).late_us == 3 * S


def test_a_peer_that_tells_nothing_of_its_wait_is_late_all_the_same():
    directory = known(signed())
    directory.on_connected(peer(NEAR))
    directory.on_refused(peer(NEAR), max_wait_us=S, busy_us=S, now_us=0)
    directory.on_disconnected(peer(NEAR))
    candidate = only(directory, 0)
    assert candidate.state is None
    assert predict(candidate, statement(), 0).wait_us == candidate.late_us == S


def test_what_one_device_took_is_what_others_of_its_name_are_expected_to():
    directory = known(signed(), signed(FAR))
    directory.on_render(peer(NEAR), statement(), step_us=7_000, fixed_us=9_000)
    near, far = directory.candidates(0)
    assert far.speeds is None
    assert near.devices is far.devices
    assert far.devices.of("cpu a CPU").nearest(MODEL, "fp32", 128 * 128).step_us == 7_000
    directory.on_render("stranger", statement(), step_us=1, fixed_us=1)
    assert far.devices.statistics()["peers"] == 1


def test_what_ones_own_device_draws_is_no_credit_to_strangers():
    directory = known(signed())
    directory.on_connected(peer(NEAR))
    directory.on_own_advert(signed(OWN))
    directory.on_drawn(peer(OWN), 0)
    directory.on_excuse(peer(NEAR), 0)
    (stranger,) = directory.candidates(0, own=False)
    assert stranger.penalty_us == TRIAL_US
