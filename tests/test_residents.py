"""What a provider loads ahead, what makes way, and what is said of deadlines: real peers in memory, in virtual time."""

import itertools

import pytest
import trio

from peer.changed import Changed
from peer.renderer.client import RendererDied
from peer.task_stream import TaskStream
from peer.work import QUIET_S
from protocol.policy.cost import OVERHEAD_US, Wishes
from protocol.policy.residency import DEMAND_OVER_US, FAILED_FOR_US
from protocol.wire.conversation import Conversation, Role
from protocol.wire.identity import key_of_untrusted
from protocol.wire.offer import Offer, SignedOffer
from protocol.wire.task import PROTOCOL as TASK_PROTOCOL
from protocol.wire.task import Accept, Failed, OfferMessage, Refuse, Result, Start

from .world import DELAY_US, MODEL, NETWORK, OTHER_MODEL, now_us, statement

S = 1_000_000
BOTH = (MODEL, OTHER_MODEL)
ONE_BYTES = 30_000_000  # one of the two has room, and not both
LOAD_US = 10 * S
RENDER_US = 200_000  # more than a picture takes


@pytest.fixture
async def bob(world, alice):
    return await world.add("bob", provide=False)


class Ask:
    """One task, asked for by hand: a message at a time."""

    def __init__(self, talk):
        self.heard, self._talk, self._changed = [], talk, Changed()

    @classmethod
    async def of(cls, source, target, wanted=None, *, attempt=b"a", due_us=None, max_wait_us=None):
        """`due_us`: from now."""
        session = source.links.session(target.id)
        offer = Offer(
            statement=wanted or statement(),
            provider=key_of_untrusted(target.id),
            boot_id=session.hello.boot_id,
            attempt=attempt * 16,
            expires_us=session.remote_now_us() + 60 * S,
            max_wait_us=max_wait_us,
            due_us=None if due_us is None else now_us() + due_us - session.to_local_us(0),
        )
        signed = SignedOffer.sign(offer, network=NETWORK, private_key=source.key)
        stream = await source.host.open_stream(target.id, TASK_PROTOCOL)
        talk = TaskStream(stream, Conversation(Role.REQUESTER))
        await talk.send(OfferMessage(signed.envelope.to_bytes(), session.clock_us()))
        ask = cls(talk)
        source._world.nursery.start_soon(ask._hear)
        ask.answer, _ = await ask.until(Accept, Refuse)
        return ask

    async def _hear(self):
        while not (self.heard and isinstance(self.heard[-1][0], Refuse | Result | Failed)):
            self.heard.append((await self._talk.receive(), now_us()))
            self._changed.notify()

    async def until(self, *kinds):
        """The first message of these kinds, and when it came."""
        while not (found := [each for each in self.heard if isinstance(each[0], kinds)]):
            await self._changed.wait()
        return found[0]

    async def drawn(self):
        return await self.until(Result)


def about(us, *, within_us=10 * DELAY_US):
    return pytest.approx(us, abs=within_us)


async def test_listed_models_are_loaded_before_anyone_asks_and_live_state_and_advert_tell(
    autojump_clock, world, alice
):
    near = await world.add("near", models=BOTH, listed=BOTH)
    assert near.renderer.resident == ()
    await trio.sleep(3 * QUIET_S)
    assert near.renderer.resident == BOTH
    assert near.work.live_state(alice.id).resident == BOTH
    (candidate,) = alice.directory.candidates(now_us(), own=False)
    assert set(candidate.state.resident) <= set(BOTH)
    ask = await Ask.of(alice, near)
    assert ask.answer.load_us == 0
    assert ask.answer.state.resident == BOTH


async def test_what_does_not_fit_beside_the_most_wanted_is_not_loaded_ahead(autojump_clock, world, alice):
    near = await world.add("near", models=BOTH, listed=BOTH, room_bytes=ONE_BYTES)
    for model in BOTH:
        near.directory.speeds.on_load(near.id, model, LOAD_US)
    near.renderer.load_us = LOAD_US
    await trio.sleep(600)
    assert near.renderer.resident == (MODEL,)
    assert not near.events("evicted")


async def test_a_model_that_was_asked_for_is_loaded_again_when_its_renderer_is_gone(
    autojump_clock, world, alice
):
    near = await world.add("near")
    near.residents._ahead = True
    await trio.sleep(60)
    assert near.renderer.resident == ()  # nobody asked for it, and nobody listed it
    await (await Ask.of(alice, near)).drawn()
    await near.renderer.retire("test")
    await trio.sleep(3 * QUIET_S)
    assert near.renderer.resident == (MODEL,)
    await trio.sleep(5 * DEMAND_OVER_US / 1e6)
    await near.renderer.retire("test")
    await trio.sleep(60)
    assert near.renderer.resident == ()


async def test_weights_that_are_gone_each_time_they_are_loaded_ahead_are_loaded_ever_more_seldom(
    autojump_clock, world, alice
):
    near = await world.add("near", models=(MODEL,))
    load, loads_s = near.renderer.load, []

    async def load_and_die(*which):
        spans = await load(*which)
        near.renderer.resident, near.renderer.running = (), False
        loads_s.append(trio.current_time())
        return spans

    near.renderer.load = load_and_die
    near.residents._ahead = True
    near.residents.on_sought(alice.id, MODEL)
    await trio.sleep(200)
    pauses_s = [round(later - earlier) for earlier, later in itertools.pairwise(loads_s)]
    assert pauses_s[:2] == [2, 6]
    assert all(earlier < later for earlier, later in itertools.pairwise(pauses_s))
    assert len(near.events("weights_gone")) == len(loads_s) < 8


async def test_a_model_that_is_looked_up_is_loaded(autojump_clock, world, alice):
    near = await world.add("near", models=BOTH)
    near.residents._ahead = True
    near.residents.on_sought(alice.id, OTHER_MODEL)
    await trio.sleep(2 * QUIET_S)
    assert near.renderer.resident == (OTHER_MODEL,)


async def test_who_comes_during_a_load_ahead_is_told_to_wait_for_it_and_does_no_longer(
    autojump_clock, world, alice, bob
):
    near = await world.add("near", models=BOTH)
    await (await Ask.of(alice, near)).drawn()  # MODEL is resident, and what loading costs is known
    near.directory.speeds.on_load(near.id, OTHER_MODEL, LOAD_US)
    near.renderer.load_us = LOAD_US
    await trio.sleep(QUIET_S + 1)
    near.residents._ahead = True
    near.residents.on_sought(alice.id, OTHER_MODEL)
    await trio.sleep(QUIET_S + LOAD_US / 4e6)  # it began at some time in the first two seconds
    began_us = now_us()
    impatient = await Ask.of(bob, near, attempt=b"i", max_wait_us=S)
    assert isinstance(impatient.answer, Refuse)
    assert impatient.answer.code == "busy"
    assert impatient.answer.state.wait_us > LOAD_US // 2
    resident, loading = (
        await Ask.of(alice, near, attempt=b"r"),
        await Ask.of(bob, near, statement(model=OTHER_MODEL), attempt=b"l"),
    )
    assert LOAD_US // 2 < resident.answer.wait_us < LOAD_US
    assert resident.answer.load_us == loading.answer.load_us == 0
    _, started_us = await resident.until(Start)
    assert started_us - began_us == about(resident.answer.wait_us)
    _, started_us = await loading.until(Start)
    assert started_us - began_us == about(loading.answer.wait_us, within_us=RENDER_US)


async def test_who_wants_the_model_that_is_being_loaded_does_not_count_that_as_waiting(
    autojump_clock, world, alice
):
    near = await world.add("near")
    near.directory.speeds.on_load(near.id, MODEL, LOAD_US)
    near.renderer.load_us = LOAD_US
    near.residents._ahead = True
    near.residents.on_sought(alice.id, MODEL)
    await trio.sleep(QUIET_S + LOAD_US / 4e6)
    assert near.renderer.resident == ()
    ask = await Ask.of(alice, near, max_wait_us=S)
    assert isinstance(ask.answer, Accept)
    assert ask.answer.wait_us > LOAD_US // 2
    assert ask.answer.load_us == 0
    assert ask.answer.state.resident == (MODEL,)


async def test_nothing_is_loaded_ahead_while_tasks_come(autojump_clock, world, alice):
    near = await world.add("near", models=BOTH)
    await (await Ask.of(alice, near, attempt=b"0")).drawn()
    near.residents._ahead = True
    near.residents.on_sought(alice.id, OTHER_MODEL)
    for number in range(1, 9):
        await (await Ask.of(alice, near, attempt=bytes([number]))).drawn()
        await trio.sleep(QUIET_S * 0.9)
    assert near.renderer.resident == (MODEL,)
    await trio.sleep(QUIET_S)
    assert near.renderer.resident == BOTH


async def test_a_model_that_cannot_be_loaded_is_left_alone_for_a_while(autojump_clock, world, alice):
    near = await world.add("near", models=BOTH)
    tried = []

    async def load(folder, model, variant=""):
        tried.append(now_us())
        await trio.lowlevel.checkpoint()
        raise RendererDied("it was killed by SIGKILL")

    near.renderer.load = load
    near.residents._ahead = True
    near.residents.on_sought(alice.id, MODEL)
    await trio.sleep(FAILED_FOR_US * 1.5 / 1e6)
    assert len(tried) == 2
    assert tried[1] - tried[0] >= FAILED_FOR_US


async def test_one_model_makes_way_for_another_and_a_renderer_is_not_restarted_for_that(
    autojump_clock, world, alice
):
    near = await world.add("near", models=BOTH, room_bytes=ONE_BYTES)
    for number, model in enumerate((MODEL, OTHER_MODEL, MODEL)):
        ask = await Ask.of(alice, near, statement(model=model), attempt=bytes([number]))
        assert ask.answer.load_us > 0
        await ask.drawn()
        assert near.renderer.resident == (model,)
    assert [event["model"] for event in near.events("evicted")] == [MODEL.hex(), OTHER_MODEL.hex()]
    assert not near.renderer.retired


async def test_weights_that_were_promised_to_a_waiting_task_stay_until_it_has_run(
    autojump_clock, world, alice, bob
):
    near = await world.add("near", models=BOTH, room_bytes=ONE_BYTES)
    near.renderer.stage_us["step"] = S // 2
    for number, model in enumerate((OTHER_MODEL, MODEL)):
        await (await Ask.of(alice, near, statement(model=model), attempt=bytes([number]))).drawn()
    running = await Ask.of(alice, near, attempt=b"1")
    promised = await Ask.of(alice, near, attempt=b"2")  # a turn that comes after the first one's end
    assert promised.answer.load_us == 0
    other = await Ask.of(bob, near, statement(model=OTHER_MODEL), attempt=b"3")
    again = await Ask.of(bob, near, attempt=b"4")
    assert other.answer.load_us > 0
    assert again.answer.load_us > 0  # for its weights will have gone
    times = [(await each.until(Start))[1] for each in (running, promised, other, again)]
    assert times == sorted(times)
    evicted = [event["model"] for event in near.events("evicted")]
    assert evicted == [OTHER_MODEL.hex(), MODEL.hex(), OTHER_MODEL.hex()]


async def test_a_device_that_ran_out_of_memory_is_filled_less(autojump_clock, world, alice):
    near = await world.add("near", models=BOTH)
    for number, model in enumerate(BOTH):
        await (await Ask.of(alice, near, statement(model=model), attempt=bytes([number]))).drawn()
    assert near.renderer.resident == BOTH
    near.residents.on_out_of_memory()
    await (await Ask.of(alice, near, attempt=b"2")).drawn()
    assert near.renderer.resident == (MODEL,)


async def test_an_offer_that_would_be_ready_too_late_is_refused_in_a_sentence(
    autojump_clock, world, alice, bob
):
    near = await world.add("near")
    await (await Ask.of(alice, near, attempt=b"0")).drawn()
    near.renderer.stage_us["step"] = S
    running = await Ask.of(alice, near, attempt=b"1")
    await trio.sleep(1.1)
    late = await Ask.of(bob, near, attempt=b"2", due_us=2 * S)
    assert (type(late.answer), late.answer.code) == (Refuse, "busy")
    assert late.answer.sentence.startswith("It would be ready in ")
    assert late.answer.sentence.endswith(" and is of no use after 2.00 s.")
    assert late.answer.state.wait_us > 2 * S
    in_time = await Ask.of(bob, near, attempt=b"3", due_us=20 * S)
    assert isinstance(in_time.answer, Accept)
    assert in_time.answer.wait_us > 3 * S  # it was told to leave half of its time to others
    await running.drawn()
    await in_time.drawn()


async def test_a_waiting_task_that_cannot_be_in_time_any_more_is_told_so_and_not_drawn(
    autojump_clock, world, alice, bob
):
    near = await world.add("near")
    await (await Ask.of(alice, near, attempt=b"0")).drawn()
    near.renderer.hangs_at_step = 2
    await Ask.of(alice, near, attempt=b"1")
    waiting = await Ask.of(bob, near, attempt=b"2", due_us=3 * S)
    assert isinstance(waiting.answer, Accept)
    failed, _ = await waiting.until(Failed)
    assert (failed.code, failed.fault) == ("late", "nobody")
    assert failed.sentence == "It cannot be ready any more by the time until which it is of use."
    assert near.work._queue.queued == 0
    near.work.cancel(near.work.task(b"1" * 16))
    near.renderer.hangs_at_step = None
    await (await Ask.of(bob, near, attempt=b"3")).drawn()
    assert b"2" * 16 not in near.renderer.rendered


async def test_a_running_task_is_stopped_when_its_steps_show_that_it_is_too_slow(
    autojump_clock, world, alice
):
    near = await world.add("near")
    await (await Ask.of(alice, near, attempt=b"0")).drawn()
    near.renderer.stage_us["step"] = S
    began_us = now_us()
    slow = await Ask.of(alice, near, attempt=b"1", due_us=2 * S)
    failed, at_us = await slow.until(Failed)
    assert failed.code == "late"
    assert at_us - began_us == about(S, within_us=S // 10)  # after the first step of four
    assert near.renderer.cancelled == [b"1" * 16]
    near.renderer.stage_us["step"] = 20_000
    await (await Ask.of(alice, near, attempt=b"2")).drawn()


async def test_a_persons_deadline_reaches_whoever_draws_less_the_way_back(autojump_clock, world, alice):
    near = await world.add("near")
    told, offer = [], near.work.offer
    near.work.offer = lambda *args: told.append(args[-1]) or offer(*args)
    await alice.ask()
    due_us = now_us() + 5 * S
    await alice.ask(statement(seed=8), wishes=Wishes(due_us=due_us))
    assert told[0] is None
    assert due_us - S < told[1] < due_us - OVERHEAD_US
