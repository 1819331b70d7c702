"""Whole conversations between real peers in memory, in virtual time."""

import hashlib
import re
import struct
import zlib
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing

import peer.check
import peer.delivery
from peer.ahead import UNUSED_AFTER_S
from peer.asking import JobFailed
from peer.picture import strip
from peer.renderer.client import RendererDied, RenderFailed
from peer.task_stream import PeerLost, TaskStream
from peer.work import ORPHAN_AFTER_US
from protocol.errors import MalformedMessage, RemoteProtocolError
from protocol.policy import shortlist
from protocol.policy.cost import Wishes
from protocol.policy.demand import OVER_US
from protocol.policy.looks import FRESH_US
from protocol.policy.timeline import ADVICE, EXECUTION
from protocol.wire.conversation import ACK_WITHIN_US, MIN_QUIET_US, Conversation, Role, State
from protocol.wire.envelope import Domain, open_untrusted, seal
from protocol.wire.identity import key_of_untrusted
from protocol.wire.offer import Offer, SignedOffer
from protocol.wire.receipt import Settled, SignedReceipt
from protocol.wire.task import PROTOCOL as TASK_PROTOCOL
from protocol.wire.task import (
    Accept,
    Ack,
    Chunk,
    OfferMessage,
    Progress,
    ReceiptMessage,
    Refuse,
    Result,
    Resume,
    SettledMessage,
)

from .world import (
    DELAY_US,
    MODEL,
    NETWORK,
    OTHER_MODEL,
    STAGES,
    Asked,
    now_us,
    picture,
    spans_us,
    statement,
)

FAR_DELAY_US = 20_000
LARGE = {"width": 512, "height": 512}  # a dozen chunks of the largest, four dozen of the smallest
MIDWAY_BYTES = 400_000  # of 786,000: more than go before the first acknowledgement
CANARY = "an unmistakable cormorant"
DELAY_ADDED_US = 100_000
OFFERS = Domain(NETWORK, "offer")


@pytest.fixture
async def far(world, near):
    return await world.add("far", delay_us=FAR_DELAY_US)


def providers(drawn, *peers):
    """Whether the attempts went to these peers, in this order."""
    return [attempt.choice.peer for attempt in drawn.attempts] == [each.id for each in peers]


def receipt_of(provider, attempt):
    return SignedReceipt.from_untrusted(provider.receipts[attempt], network=NETWORK).receipt


def well_accounted(drawn):
    timeline = drawn.timeline
    return timeline.unaccounted_us <= timeline.wall_us * 2 // 100


async def test_a_picture_end_to_end(autojump_clock, alice, near):
    wanted = statement()
    drawn = await alice.ask(wanted)
    await trio.sleep(1)
    file, pixels = picture(64, 64, wanted.seed)
    assert strip(drawn.file)[0] == file
    assert drawn.provider == near.id
    assert drawn.checked == ("signature", "statement", "file", "pixels")
    assert drawn.timeline.unaccounted_us == 0
    (attempt,) = drawn.attempts
    signed = SignedReceipt.from_untrusted(near.receipts[attempt.id], network=NETWORK)
    assert signed.provider == near.id
    assert (signed.receipt.statement, signed.receipt.outcome) == (wanted.hash, "done")
    assert signed.receipt.file == hashlib.sha256(file).digest()
    assert (signed.receipt.pixels, signed.receipt.steps_done) == (pixels, wanted.steps)
    settled, envelope = Settled.from_untrusted(near.settled[attempt.id], network=NETWORK)
    assert settled == Settled(attempt.id, signed.envelope.hash, accepted=True)
    assert envelope.signer == alice.id
    assert alice.host.errors == near.host.errors == []


async def test_progress_and_previews_come_as_the_steps_do(autojump_clock, alice, near):
    asked = Asked()
    await alice.ask(asked=asked)
    steps = [progress.step for progress in asked.progress]
    assert steps == sorted(steps)
    assert {1, 2, 3} <= set(steps)
    assert all(each.preview.rgb == bytes([each.step] * 12) for each in asked.progress if each.preview)


async def test_the_nearer_of_two_equals_is_asked(autojump_clock, alice, near, far):
    assert providers(await alice.ask(), near)


async def test_what_is_asked_of_others_is_demand_and_their_connection_is_in_use_meanwhile(
    autojump_clock, alice, near
):
    used = []
    near.work._on_receipt = _after(
        near.work._on_receipt, lambda: used.append(alice.requester.talks_with(near.id))
    )
    drawn = await alice.ask()
    busy_us = drawn.attempts[0].choice.busy_us
    assert alice.demand.renderers(now_us()) == pytest.approx(busy_us / OVER_US, rel=0.2)
    assert used == [True]
    assert not alice.requester.talks_with(near.id)


def _after(keep, note):
    async def noted(*what):
        note()
        await keep(*what)

    return noted


async def test_a_peer_draws_for_itself_without_a_network(autojump_clock, world):
    loner = await world.add("loner")
    drawn = await loner.ask(remote=False)
    assert drawn.provider == loner.id
    assert well_accounted(drawn)


async def test_pictures_asked_at_once_are_all_drawn(autojump_clock, alice, near, far):
    drawn = []

    async def ask(seed):
        drawn.append(await alice.ask(statement(seed=seed)))

    async with trio.open_nursery() as nursery:
        for seed in range(4):
            nursery.start_soon(ask, seed)
    assert {each.statement.seed for each in drawn} == set(range(4))
    assert len(near.renderer.rendered) + len(far.renderer.rendered) == 4
    assert all(map(well_accounted, drawn))


async def test_a_peer_that_tells_a_hundredth_of_its_step_time_is_believed_once(
    autojump_clock, world, alice, near
):
    far = await world.add("far", delay_us=FAR_DELAY_US)
    near.renderer.stage_us["step"] = far.renderer.stage_us["step"] * 100
    near.renderer.change = lambda rendered: replace(
        rendered,
        spans=tuple((name, at, us // 100 if name == "step" else us) for name, at, us in rendered.spans),
    )
    assert providers(await alice.ask(), near)
    for _ in range(3):
        assert providers(await alice.ask(), far)


# refusals


async def test_a_peer_that_became_busy_refuses_and_the_next_is_asked(
    autojump_clock, world, alice, near, nursery
):
    carol = await world.add("carol", provide=False)
    far = await world.add("far", delay_us=FAR_DELAY_US, allow=(alice.id,))  # carol is drawn for by near
    near.renderer.stage_us["step"] = 1_000_000
    await alice.links.look((near.id,), 1_000_000)  # what alice was told just now is not asked again
    nursery.start_soon(carol.ask)
    await trio.sleep(FRESH_US * 4 / 5e6)
    drawn = await alice.ask()
    assert providers(drawn, near, far)
    assert drawn.attempts[0].outcome == "refused"
    assert "was to start within" in drawn.attempts[0].sentence
    assert well_accounted(drawn)


async def test_a_peer_that_renders_for_others_only_refuses(autojump_clock, world, alice):
    near = await world.add("near", allow=("someone else",))
    far = await world.add("far", delay_us=FAR_DELAY_US)
    drawn = await alice.ask()
    assert providers(drawn, near, far)
    assert drawn.attempts[0].sentence == "This peer renders for named peers only."


async def test_a_peer_that_no_longer_has_the_model_refuses(autojump_clock, world, alice):
    near = await world.add("near", models=(OTHER_MODEL,))
    far = await world.add("far", delay_us=FAR_DELAY_US)
    alice.claim(near, MODEL)
    drawn = await alice.ask()
    assert providers(drawn, near, far)
    assert drawn.attempts[0].sentence == "This peer does not have that model."


async def test_a_peer_that_stopped_providing_refuses_and_tells_no_state(autojump_clock, world, alice):
    near = await world.add("near", provide=False)
    alice.claim(near, OTHER_MODEL)
    with pytest.raises(JobFailed, match="does not render for others"):
        await alice.ask()


async def test_where_some_refuse_and_some_fail_the_sentence_says_what_each_of_them_did(
    autojump_clock, world, alice
):
    await world.add("near", allow=("someone else",))
    far = await world.add("far", delay_us=FAR_DELAY_US)
    far.renderer.refuses = RenderFailed("out_of_memory", "The device ran out of memory.", "nobody")
    with pytest.raises(JobFailed) as caught:
        await alice.ask()
    assert caught.value.sentence == (
        "Nobody who was asked drew it. near: This peer renders for named peers only. far: The device ran out of memory."
    )
    assert not caught.value.nobody


async def test_where_only_those_who_would_be_late_are_left_the_sentence_says_that_first(
    autojump_clock, world, alice
):
    await world.add("near", allow=("someone else",))
    far = await world.add("far", delay_us=FAR_DELAY_US)
    alice.directory.speeds.on_render(far.id, statement(), step_us=60_000_000, fixed_us=0)
    with pytest.raises(
        JobFailed, match=r"Nobody is expected .* far .* This peer renders for named peers only\.$"
    ):
        await alice.ask(wishes=Wishes(due_us=now_us() + 5_000_000))


async def test_without_peers_the_sentence_says_so(autojump_clock, alice):
    with pytest.raises(JobFailed, match="join a swarm"):
        await alice.ask()


async def test_an_offer_is_good_for_one_provider_one_requester_and_one_run(
    autojump_clock, world, alice, near, far
):
    offers = []

    def listen(source, target, message):
        offers.extend([message] if isinstance(message, OfferMessage) else [])
        return message

    world.network.tamper = listen
    await alice.ask()
    (offer,) = offers

    async def answer(source, target):
        stream = await source.host.open_stream(target.id, TASK_PROTOCOL)
        talk = TaskStream(stream, Conversation(Role.REQUESTER))
        await talk.send(offer)
        reply = await talk.receive()
        await talk.aclose()
        return reply

    for source, target in ((far, near), (alice, far)):
        reply = await answer(source, target)
        assert isinstance(reply, Refuse)
        assert reply.code == "replayed"
    assert isinstance(await answer(alice, near), Accept)  # the same word again is no second task
    assert len(near.renderer.rendered) == 1
    near.links.boot_id = bytes(16)
    reply = await answer(alice, near)
    assert (reply.code, len(near.renderer.rendered), len(far.renderer.rendered)) == ("replayed", 1, 0)


# losses


async def test_a_provider_that_freezes_at_work_is_replaced_within_its_deadline(
    autojump_clock, world, alice, near, far
):
    at_us = []

    def freeze(number, progress):
        if number == 1 and progress.step == 2 and not at_us:
            at_us.append(now_us())
            world.network.freeze(near.id)

    asked = Asked(on_progress=freeze)
    attempts_us = []
    asked.attempts = type("Noted", (list,), {"append": lambda self, each: attempts_us.append(now_us())})()
    drawn = await alice.ask(asked=asked)
    assert providers(drawn, near, far)
    assert attempts_us[1] - at_us[0] <= MIN_QUIET_US + 3 * DELAY_US
    assert drawn.attempts[0].outcome == "lost"
    assert any("nothing was heard in time" in said for said in asked.told)
    assert well_accounted(drawn)


async def test_a_connection_cut_while_rendering_costs_a_new_attempt(autojump_clock, world, alice, near, far):
    def cut(number, progress):
        if number == 1 and progress.step == 2:
            world.network.cut(alice.id, near.id, for_ever=True)

    drawn = await alice.ask(asked=Asked(on_progress=cut))
    assert providers(drawn, near, far)
    assert well_accounted(drawn)


def cut_midway(world, one, other, **how):
    """Breaks their connection once at a chunk in the middle; (chunks up to there, chunks after it)."""
    before, after = [], []

    def tamper(source, target, message):
        if isinstance(message, Chunk):
            broken = before and before[-1].offset >= MIDWAY_BYTES
            (after if broken else before).append(message)
            if not broken and message.offset >= MIDWAY_BYTES:
                world.network.cut(one.id, other.id, **how)
        return message

    world.network.tamper = tamper
    return before, after


async def test_a_transfer_that_breaks_is_resumed_and_nothing_rendered_twice(
    autojump_clock, world, alice, near, far
):
    before, after = cut_midway(world, alice, near)
    asked, wanted = Asked(), statement(**LARGE)
    drawn = await alice.ask(wanted, asked=asked)
    assert providers(drawn, near)
    assert strip(drawn.file)[0] == picture(512, 512, wanted.seed)[0]
    assert len(near.renderer.rendered) == 1
    assert any("fetching the rest" in said for said in asked.told)
    assert 0 < after[0].offset <= before[-1].offset  # what was lost on the way came again, and no more
    assert well_accounted(drawn)


async def test_a_transfer_that_breaks_teaches_the_speed_of_its_peer_once_and_none_of_its_line(
    autojump_clock, world, alice, near
):
    cut_midway(world, alice, near)
    drawn = await alice.ask(statement(**LARGE))
    assert providers(drawn, near)
    learned = alice.directory.speeds.of(near.id)
    assert [speed.count for speed in learned.speeds.values()] == [1]
    assert learned.bytes_per_s is None  # how long it was away says nothing of that


async def test_a_transfer_that_breaks_for_ever_teaches_how_fast_its_peer_drew(
    autojump_clock, world, alice, near
):
    cut_midway(world, alice, near, for_ever=True)
    with pytest.raises(JobFailed):
        await alice.ask(statement(**LARGE))
    (speed,) = alice.directory.speeds.of(near.id).speeds.values()
    assert (speed.count, speed.step_us) == (1, pytest.approx(near.renderer.stage_us["step"], rel=0.1))


@pytest.fixture
def known_alike(alice, near, far):
    for each in (near, far):
        alice.directory.speeds.on_render(each.id, statement(**LARGE), step_us=20_000, fixed_us=20_000)
        alice.directory.speeds.on_load(each.id, MODEL, 50_000)


async def test_a_provider_that_leaves_during_its_transfer_is_waited_for_as_long_as_another_would_take(
    autojump_clock, world, alice, near, far, known_alike
):
    cut_midway(world, alice, near, for_ever=True)
    asked = Asked()
    drawn = await alice.ask(statement(**LARGE), asked=asked)
    assert providers(drawn, near, far)
    left, other = drawn.attempts
    waited_us = other.leg.began_us - left.leg.spanned_us
    assert waited_us == pytest.approx(other.plan.ranked[0].predicted_us, abs=5 * DELAY_US)
    assert any("it has not come back" in said for said in asked.told)
    assert re.fullmatch(r"near had not come back \S+ m?s after its connection broke", other.why)
    assert well_accounted(drawn)


@pytest.mark.parametrize("far_is_lost", [False, True])
async def test_who_is_back_with_its_picture_before_another_has_drawn_it_draws_nothing_twice(
    autojump_clock, world, alice, near, far, known_alike, far_is_lost
):
    cut_midway(world, alice, near, for_ever=True)
    far.renderer.stage_us["step"] = 400_000

    def comes_back(number, progress):
        if number == 2 and progress.step == 2:
            if far_is_lost:
                world.network.cut(alice.id, far.id, for_ever=True)
            world.network._severed.discard(frozenset((alice.id, near.id)))

    drawn = await alice.ask(statement(**LARGE), asked=Asked(on_progress=comes_back))
    assert drawn.provider == near.id
    assert len(near.renderer.rendered) == 1
    assert [each.outcome for each in drawn.attempts] == ["done", "lost" if far_is_lost else "outrun"]
    assert len(drawn.attempts) == 2
    assert far.renderer.rendered == []
    await trio.sleep(30)
    assert alice.requester.means.lines == []


async def test_a_provider_that_no_longer_has_its_picture_is_lost_and_draws_it_anew_where_nobody_else_can(
    autojump_clock, world, alice, near
):
    cut_midway(world, alice, near)
    near.work.task = lambda attempt: None  # as after a restart
    asked = Asked()
    drawn = await alice.ask(statement(**LARGE), asked=asked)
    assert [(each.outcome, each.final) for each in drawn.attempts] == [("lost", False), ("done", False)]
    assert providers(drawn, near, near)
    assert "near: it no longer has the picture; asking another peer" in asked.told
    assert well_accounted(drawn)


async def test_a_provider_that_ended_during_its_transfer_is_not_waited_for(
    autojump_clock, world, alice, near, far, known_alike
):
    def tamper(source, _, message):
        if source == near.id and isinstance(message, Chunk) and message.offset >= MIDWAY_BYTES:
            world.network.end(near.id)
        return message

    world.network.tamper = tamper
    drawn = await alice.ask(statement(**LARGE))
    assert [attempt.outcome for attempt in drawn.attempts] == ["lost", "done"]
    left, other = (attempt.leg for attempt in drawn.attempts)
    assert other.began_us == left.ended_us
    assert "nobody is there" in drawn.attempts[0].sentence
    assert well_accounted(drawn)


# what does not hold


def changes(provider, kind, change):
    """What `provider` says of `kind` is changed under way."""
    return lambda source, _, message: (
        change(message) if source == provider.id and isinstance(message, kind) else message
    )


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def bomb():
    """A PNG of 64x64 whose pixels unpack to 10 MB."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


LIES = {
    "other bytes": (Chunk, lambda it: replace(it, data=flipped(it.data)), "announced hash"),
    "a gap": (Chunk, lambda it: replace(it, offset=it.offset + 1), "is next"),
    "more bytes": (Chunk, lambda it: replace(it, data=it.data + b"more"), "left"),
    "more steps than asked": (Progress, lambda it: replace(it, step=1000), "1000 steps of 4"),
    "another size": (Result, lambda it: replace(it, width=it.width * 2), "size or format"),
    "a huge file": (Result, lambda it: replace(it, file_bytes=200 << 20), "too large"),
    "a wrong signature": (
        ReceiptMessage,
        lambda it: replace(it, envelope=flipped(it.envelope)),
        "does not hold",
    ),
    "no bytes": (Chunk, lambda it: None, "0 of 12420 bytes arrived"),
    "no message": (Result, lambda it: b"\0\0\0\2\xff\xff", "does not hold"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_what_does_not_hold_is_drawn_by_another(autojump_clock, world, alice, near, far, lie):
    kind, change, sentence = LIES[lie]
    world.network.tamper = changes(near, kind, change)
    asked = Asked()
    drawn = await alice.ask(asked=asked)
    assert providers(drawn, near, far)
    assert sentence in " ".join(asked.told)
    assert well_accounted(drawn)


PICTURES = {
    "a bomb": (lambda it: replace(it, file=bomb()), "exactly"),
    "a picture of another size": (lambda it: replace(it, file=picture(72, 64, 1)[0]), "72x64"),
    "no picture": (lambda it: replace(it, file=b"GIF89a"), "no PNG file"),
    "other pixels than it signed": (lambda it: replace(it, pixels=bytes(32)), "other pixels"),
}


@pytest.mark.parametrize("what", PICTURES)
async def test_a_file_that_is_not_the_picture_fails_with_a_sentence(autojump_clock, alice, near, what):
    near.renderer.change, sentence = PICTURES[what]
    with pytest.raises(JobFailed, match=sentence):
        await alice.ask()


async def test_a_receipt_of_another_peer_is_not_taken(autojump_clock, world, alice, near, far):
    world.network.tamper = changes(
        near, ReceiptMessage, lambda it: replace(it, envelope=receipt_signed_by(far, it.envelope))
    )
    asked = Asked()
    assert providers(await alice.ask(asked=asked), near, far)
    assert "signed by another peer" in " ".join(asked.told)


def receipt_signed_by(signer, envelope):
    honest = SignedReceipt.from_untrusted(envelope, network=NETWORK)
    return SignedReceipt.sign(honest.receipt, network=NETWORK, private_key=signer.key).envelope.to_bytes()


# renderers


async def test_a_renderer_that_dies_is_told_and_the_next_peer_asked(autojump_clock, alice, near, far):
    near.renderer.error = RendererDied("it was killed by SIGKILL")
    asked = Asked()
    drawn = await alice.ask(asked=asked)
    assert providers(drawn, near, far)
    assert drawn.attempts[0].outcome == "failed"
    assert "killed by SIGKILL" in " ".join(asked.told)
    assert well_accounted(drawn)


TOO_LONG = RenderFailed("prompt_too_long", "The prompt has 99 tokens, 77 fit.", "requester")


async def test_what_one_peer_says_that_the_requester_did_wrong_is_drawn_by_another(
    autojump_clock, alice, near, far
):
    near.renderer.refuses = TOO_LONG
    assert providers(await alice.ask(), near, far)
    (known,) = alice.directory.candidates(now_us(), own=False, among=frozenset({near.id}))
    assert known.penalty_us > 0


async def test_what_two_peers_say_that_the_requester_did_wrong_is_asked_of_nobody_else(
    autojump_clock, world, alice, near, far
):
    farthest = await world.add("farthest", delay_us=10 * FAR_DELAY_US)
    near.renderer.refuses = far.renderer.refuses = TOO_LONG
    with pytest.raises(JobFailed, match="99 tokens"):
        await alice.ask()
    assert not farthest.renderer.prompts


# endings


@pytest.mark.parametrize("when", ["heard", "kept", "drawn"])
async def test_a_receipt_that_was_heard_is_kept_and_settled_even_if_its_picture_is_cancelled_then(
    autojump_clock, alice, near, when
):
    scope, asked = trio.CancelScope(), Asked()
    write, keep = alice.requester.means.journal, alice.requester.means.keep

    def heard(event, **fields):
        write(event, **fields)
        if event == "received":
            scope.cancel()

    async def kept(*record):
        await keep(*record)
        scope.cancel()

    changes = {"heard": {"journal": heard}, "kept": {"keep": kept}, "drawn": {}}[when]
    alice.requester.means = replace(alice.requester.means, **changes)
    if when == "drawn":
        asked.drawn = type("Cancelling", (list,), {"append": lambda self, each: scope.cancel()})()
    with scope:
        await alice.ask(asked=asked)
    await trio.sleep(1)
    ((attempt, settled),) = alice.kept
    assert attempt.receipt.envelope.to_bytes() == near.receipts[attempt.id]
    assert near.settled == {attempt.id: settled}
    assert alice.requester.means.lines == []


async def test_cancelling_stops_the_renderer_and_gives_a_receipt_of_what_was_done(
    autojump_clock, alice, near
):
    with trio.CancelScope() as scope:
        asked = Asked(on_progress=lambda _, progress: scope.cancel() if progress.step == 2 else None)
        await alice.ask(asked=asked)
    assert scope.cancelled_caught
    (attempt,) = near.renderer.cancelled
    receipt = receipt_of(near, attempt)
    assert (receipt.outcome, receipt.outputs) == ("cancelled", 0)
    assert 2 <= receipt.steps_done <= 3
    assert near.work.live_state("anyone").running == 0


async def test_a_task_cancelled_in_the_queue_never_runs(autojump_clock, alice, near, nursery):
    near.renderer.stage_us["step"] = 1_000_000
    nursery.start_soon(alice.ask)
    await trio.sleep(0.5)
    with trio.move_on_after(1) as scope:
        await alice.ask(statement(prompt="another"))
    assert scope.cancelled_caught
    (attempt,) = near.receipts  # before the other is drawn
    assert receipt_of(near, attempt).outcome == "cancelled"
    await trio.sleep(10)
    assert near.renderer.prompts == ["a lighthouse"]
    outcomes = sorted(receipt_of(near, attempt).outcome for attempt in near.receipts)
    assert outcomes == ["cancelled", "done"]


@pytest.mark.parametrize("leave", ["cut", "freeze"])
async def test_a_task_whose_requester_is_gone_is_stopped_after_a_grace(
    autojump_clock, world, alice, near, nursery, leave
):
    near.renderer.stage_us["step"] = 60_000_000

    async def ask():
        with pytest.raises(JobFailed):
            await alice.ask()

    nursery.start_soon(ask)
    await trio.sleep(1)
    if leave == "cut":
        world.network.cut(alice.id, near.id, for_ever=True)
        noticed_us = 0
    else:
        world.network.freeze(alice.id)
        noticed_us = 30_000_000  # an idle link asks every 15 s, and gives up 10 s later
    await trio.sleep((ORPHAN_AFTER_US - 2_000_000) / 1e6)
    assert not near.renderer.cancelled
    await trio.sleep((noticed_us + 4_000_000) / 1e6)
    (attempt,) = near.renderer.cancelled
    assert receipt_of(near, attempt).outcome == "cancelled"


async def test_tasks_that_are_over_are_forgotten(autojump_clock, alice, near):
    await alice.ask()
    with trio.move_on_after(0.1):
        near.renderer.stage_us["step"] = 1_000_000
        await alice.ask(statement(seed=8))
    assert len(near.work._tasks) == 2
    await trio.sleep(1300)
    assert not near.work._tasks


# time


async def measured(world, alice, near, stage, clock, monkeypatch):
    """One picture with `stage` delayed."""
    us = DELAY_ADDED_US
    plan, check = shortlist.plan, peer.check.check_picture_untrusted

    def slow(function, *args, **more):
        clock.jump(us / 1e6)
        return function(*args, **more)

    match stage:
        case "plan":
            plans = iter((partial(slow, plan),))  # one for a hedge may follow, beside the loading
            monkeypatch.setattr(shortlist, "plan", lambda *args, **more: next(plans, plan)(*args, **more))
        case "check":
            monkeypatch.setattr(peer.check, "check_picture_untrusted", partial(slow, check))
        case "save":
            alice.save_us += us
        case "sign":
            monkeypatch.setattr(near.work, "_sign", partial(slow, near.work._sign))
        case "submit":
            return await alice.ask(asked_us=now_us() - us)
        case "embed":
            monkeypatch.setattr(peer.delivery, "embed", partial(slow, peer.delivery.embed))
        case "dial":
            open_stream = alice.host.open_stream

            async def open_late(there, protocol):
                await trio.sleep(us / 1e6)
                return await open_stream(there, protocol)

            monkeypatch.setattr(alice.host, "open_stream", open_late)
        case "start_renderer":
            near.renderer.start_us += us
        case "load_weights":
            near.renderer.load_us += us
        case "handoff":
            near.renderer.handoff_us += us
        case "handback":
            near.renderer.handback_us += us
        case "transfer":
            world.network.tamper = changes(near, Chunk, lambda it: slow(lambda: it))
        case "address":
            world.network.tamper = changes(alice, OfferMessage, lambda it: slow(lambda: it))
        case "leave":
            world.network.tamper = changes(near, Result, lambda it: slow(lambda: it))
        case "wake":
            decode = peer.task_stream.task_message_untrusted

            def late(value):
                return slow(decode, value) if value[0] == ReceiptMessage.KIND else decode(value)

            monkeypatch.setattr(peer.task_stream, "task_message_untrusted", late)
        case "offer":
            world.network.tamper = changes(near, Accept, lambda it: slow(lambda: it))
        case name if name in STAGES:
            near.renderer.stage_us[name] += us
    return await alice.ask()


DELAYED = (
    *("submit", "plan", "dial", "address", "offer", "start_renderer", "load_weights", "handoff"),
    *(*STAGES, "handback", "sign", "leave", "transfer", "wake", "check", "save", "embed"),
)
DELAYED_ELSEWHERE = {"wait", "lost"} | {
    "look",
    "start_peer",
    "join",
    "deliver",
    "write_file",
}  # below; in test_looks and test_service
NOT_YET_DONE = {"load_adapter"}


def test_every_stage_that_has_words_for_a_person_is_delayed_in_a_test():
    assert {*DELAYED} | DELAYED_ELSEWHERE | NOT_YET_DONE == EXECUTION | ADVICE.keys()


@pytest.mark.parametrize("stage", DELAYED)
async def test_a_delay_is_seen_in_the_span_of_its_stage_and_nowhere_else(
    autojump_clock, world, alice, near, stage, monkeypatch
):
    async def cold():
        """The renderer's process is gone, and so is the stream that was opened ahead."""
        await trio.sleep(UNUSED_AFTER_S + 1)
        near.renderer.resident, near.renderer.running = (), False

    await alice.ask()
    await cold()
    usual = await alice.ask()
    await cold()
    delayed = await measured(world, alice, near, stage, autojump_clock, monkeypatch)
    before, after = spans_us(usual.timeline), spans_us(delayed.timeline)
    added = DELAY_ADDED_US * (4 if stage == "step" else 1)
    grown = {name: us - before.get(name, 0) for name, us in after.items()}
    assert abs(grown.pop(stage) - added) <= 2 * DELAY_US
    assert all(abs(us) <= 2 * DELAY_US for us in grown.values()), grown
    assert well_accounted(usual)
    assert well_accounted(delayed)


async def test_opening_a_connection_is_the_span_dial(autojump_clock, world, alice, near):
    usual = spans_us((await alice.ask()).timeline)["dial"]
    world.network.delays_us[frozenset((alice.id, near.id))] = 10_000
    world.network.cut(alice.id, near.id)
    drawn = await alice.ask()
    assert spans_us(drawn.timeline)["dial"] > usual + 80_000
    assert well_accounted(drawn)


async def test_an_attempt_that_gave_nothing_is_the_span_lost(autojump_clock, alice, near, far):
    near.renderer.error = RendererDied("it was killed by SIGKILL")
    near.renderer.stage_us["step"] = 5_000_000
    drawn = await alice.ask()
    assert providers(drawn, near, far)
    spans = spans_us(drawn.timeline)
    assert 5_000_000 < spans.pop("lost") < 5_100_000
    assert sum(spans.values()) < 1_000_000
    assert well_accounted(drawn)


async def test_waiting_behind_another_is_the_span_wait(autojump_clock, alice, near, nursery):
    near.renderer.stage_us["step"] = 1_000_000
    nursery.start_soon(alice.ask)
    await trio.sleep(0.5)
    drawn = await alice.ask(statement(seed=8))
    assert 3_000_000 < spans_us(drawn.timeline)["wait"] < 4_000_000
    assert well_accounted(drawn)


# prompts


async def test_a_prompt_is_written_down_nowhere_at_its_provider(autojump_clock, world, tmp_path):
    alice = await world.add("alice", provide=False, home=tmp_path / "alice")
    near = await world.add("near", home=tmp_path / "near")
    await alice.ask(statement(prompt=CANARY, negative=CANARY))
    near.renderer.error = RendererDied("it was killed by SIGKILL")
    with pytest.raises(JobFailed):
        await alice.ask(statement(prompt=CANARY))
    assert near.renderer.prompts == [CANARY, CANARY]
    await trio.sleep(1)
    files = [path for path in (tmp_path / "near").iterdir() if path.is_file()]
    assert {"ledger.sqlite3", "journal.jsonl"} <= {path.name for path in files}
    files.append(tmp_path / "alice" / "journal.jsonl")
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert CANARY not in str(alice.journal) + str(near.journal)


async def test_a_task_followed_on_a_new_stream_outlives_the_end_of_the_old_one(
    autojump_clock, world, alice, near, nursery
):
    near.renderer.stage_us["step"] = 10_000_000
    offers = []

    def listen(source, target, message):
        offers.extend([message] if isinstance(message, OfferMessage) else [])
        return message

    world.network.tamper = listen
    drawn = []

    async def ask():
        drawn.append(await alice.ask())

    nursery.start_soon(ask)
    await trio.sleep(1)
    stream = await alice.host.open_stream(near.id, TASK_PROTOCOL)
    second = TaskStream(stream, Conversation(Role.REQUESTER))
    await second.send(offers[0])
    assert isinstance(await second.receive(), Accept)
    await stream.reset()
    await trio.sleep(60)
    assert providers(drawn[0], near)


async def test_a_task_cancelled_in_the_queue_is_forgotten_in_the_end(autojump_clock, alice, near, nursery):
    near.renderer.stage_us["step"] = 1_000_000
    nursery.start_soon(alice.ask)
    await trio.sleep(0.5)
    with trio.move_on_after(1):
        await alice.ask(statement(seed=8))
    await trio.sleep(1300)
    assert not near.work._tasks


async def test_a_requester_that_acknowledges_nothing_does_not_hold_a_stream_for_ever(
    autojump_clock, world, alice, near
):
    offers = []

    def keep(source, target, message):
        if isinstance(message, OfferMessage) and not offers:
            offers.append(message)
        return message

    world.network.tamper = keep
    await alice.ask(statement(**LARGE))
    stream = await alice.host.open_stream(near.id, TASK_PROTOCOL)
    silent = TaskStream(stream, Conversation(Role.REQUESTER))
    await silent.send(offers[0])
    assert isinstance(await silent.receive(), Accept)
    assert near.provider.statistics()["talking"] == 1
    await trio.sleep(ACK_WITHIN_US / 1e6 + 1)
    assert near.provider.statistics()["talking"] == 0


# a provider and what it is told


class Heard:
    """The task messages that went over the wire, by who said them."""

    def __init__(self, world):
        self.messages = []
        world.network.tamper = self

    def __call__(self, source, target, message):
        self.messages.append((source, message))
        return message

    def kinds(self, source):
        return [message.KIND for said_by, message in self.messages if said_by == source.id]

    def offer(self):
        return next(message for _, message in self.messages if isinstance(message, OfferMessage))


async def say(source, target, *messages):
    """Opens a task stream and says these there."""
    stream = await source.host.open_stream(target.id, TASK_PROTOCOL)
    talk = TaskStream(stream, Conversation(Role.REQUESTER))
    for message in messages:
        await talk.send(message)
    return talk


def offer_of(source, target, wanted, attempt=b"a" * 16):
    session = source.links.session(target.id)
    offer = Offer(
        statement=wanted,
        provider=key_of_untrusted(target.id),
        boot_id=session.hello.boot_id,
        attempt=attempt,
        expires_us=session.remote_now_us() + 60_000_000,
        max_wait_us=None,
    )
    signed = SignedOffer.sign(offer, network=NETWORK, private_key=source.key)
    return OfferMessage(signed.envelope.to_bytes(), session.clock_us())


@pytest.mark.parametrize("cold", [True, False])
async def test_the_times_of_a_receipt_add_up_to_what_passed(autojump_clock, world, alice, near, cold):
    if not cold:
        await alice.ask()
    heard = Heard(world)
    began_us = now_us()
    drawn = await alice.ask()
    result_us = next(
        message.sent_us - near.links.session(alice.id).epoch_us
        for _, message in heard.messages
        if isinstance(message, Result)
    )
    receipt, spans = receipt_of(near, drawn.attempts[0].id), spans_us(drawn.timeline)
    assert receipt.load_us == (near.renderer.start_us + near.renderer.load_us if cold else 0)
    starting_us = spans.get("start_renderer", 0) + DELAY_US  # which the way of ACCEPT covers
    assert starting_us == near.renderer.start_us if cold else "start_renderer" not in spans
    assert spans.get("load_weights", 0) == (near.renderer.load_us if cold else 0)
    heard_offer_us = result_us - receipt.queue_us - receipt.load_us - receipt.render_us
    assert began_us < heard_offer_us < began_us + 10 * DELAY_US
    assert well_accounted(drawn)


@pytest.mark.parametrize("what", ["another receipt", "before there is one"])
async def test_settled_is_for_the_receipt_that_was_sent(autojump_clock, world, alice, near, what):
    if what == "another receipt":
        lie = Settled(b"a" * 16, b"r" * 32, accepted=True)
        talk = await say(alice, near, offer_of(alice, near, statement()))
        while not isinstance(message := await talk.receive(), ReceiptMessage):
            if isinstance(message, Chunk):
                await talk.send(Ack(message.offset + len(message.data)))
    else:
        near.renderer.stage_us["step"] = 10_000_000
        lie = Settled(b"a" * 16, bytes(32), accepted=True)
        talk = await say(alice, near, offer_of(alice, near, statement()))
        talk.conversation.states[Role.REQUESTER] = State.SETTLING
    envelope = lie.sign(network=NETWORK, private_key=alice.key)
    await talk.send(SettledMessage(envelope.to_bytes(), 0))
    await trio.sleep(1)
    assert not near.settled
    ((peer, _, error),) = near.host.errors
    assert peer == alice.id
    assert isinstance(error, RemoteProtocolError)


async def test_an_offer_that_cannot_be_read_ends_the_stream_and_is_let_out(
    autojump_clock, world, alice, near
):
    good = offer_of(alice, near, statement())
    value = open_untrusted(good.envelope, domain=OFFERS).value_untrusted()
    value["statement"] = statement(steps=0).to_bytes()
    envelope = seal(value, domain=OFFERS, private_key=alice.key)
    talk = await say(alice, near, OfferMessage(envelope.to_bytes(), 0))
    with pytest.raises(PeerLost):
        await talk.receive()
    ((_, _, error),) = near.host.errors
    assert isinstance(error, MalformedMessage)


async def test_an_offer_with_a_field_of_the_future_is_refused_and_nobody_blamed(
    autojump_clock, world, alice, near
):
    good = offer_of(alice, near, statement())
    value = open_untrusted(good.envelope, domain=OFFERS).value_untrusted()
    envelope = seal(value | {"zeal": 1}, domain=OFFERS, private_key=alice.key)
    talk = await say(alice, near, OfferMessage(envelope.to_bytes(), 0))
    assert (await talk.receive()).code == "unknown_field"
    assert not near.host.errors


CANNOT = {
    "its family's sampler": ({"sampler": "flow_euler"}, "unsupported", "is sampled with ddim or euler, not"),
    "its size": ({"width": 72, "height": 80}, "unsupported", "multiples of 16 px, not 72x80"),
    "its tokens": ({"prompt": "word " * 80}, "too_large", "82 tokens long; this model reads 77"),
    "its steps": ({"steps": 150}, "unsupported", "takes at most 100 steps, not 150"),
}


@pytest.mark.parametrize("what", CANNOT)
async def test_what_a_model_cannot_draw_is_refused_before_it_is_loaded(
    autojump_clock, world, alice, near, what
):
    changes, code, sentence = CANNOT[what]
    ((model, held),) = near.work.models.items()
    near.work.models[model] = replace(held, abilities=replace(held.abilities, cell_px=16, most_steps=100))
    heard = Heard(world)
    with pytest.raises(JobFailed, match=sentence):
        await alice.ask(statement(**changes))
    assert heard.kinds(near) == ["refuse"]
    assert next(message for source, message in heard.messages if source == near.id).code == code
    assert not near.renderer.running
    loner = near
    with pytest.raises(JobFailed, match=sentence):  # on one's own device, the same words
        await loner.ask(statement(**changes), remote=False)


async def test_what_only_the_renderer_finds_out_fails_before_start(autojump_clock, world, alice, near):
    near.renderer.refuses = RenderFailed("unsupported", "This renderer cannot.", "requester")
    heard = Heard(world)
    with pytest.raises(JobFailed, match="This renderer cannot"):
        await alice.ask()
    kinds = heard.kinds(near)
    assert (kinds[0], kinds[-1]) == ("accept", "failed")
    assert set(kinds[1:-1]) == {"loading"}


async def test_bytes_go_while_the_receipt_is_stored_and_the_receipt_after_it(
    autojump_clock, world, alice, near
):
    heard, stored_us = Heard(world), []
    keep = near.work._on_receipt

    async def slowly(task, envelope):
        await trio.sleep(0.1)
        await keep(task, envelope)
        stored_us.append(now_us())

    near.work._on_receipt = slowly
    drawn = await alice.ask()
    clock = near.links.session(alice.id)
    sent_us = {
        message.KIND: message.sent_us - clock.epoch_us
        for _, message in heard.messages
        if isinstance(message, Result | ReceiptMessage)
    }
    assert sent_us["result"] <= stored_us[0] - 100_000
    assert sent_us["receipt"] >= stored_us[0]
    assert well_accounted(drawn)


async def test_the_receipt_follows_the_last_byte_and_waits_for_no_acknowledgement(
    autojump_clock, world, alice, near
):
    heard = Heard(world)
    wanted = statement(**LARGE)
    drawn = await alice.ask(wanted)
    await trio.sleep(1)
    said = [(source, message.KIND) for source, message in heard.messages]
    receipt = said.index((near.id, "receipt"))
    assert said[receipt - 1] == (near.id, "chunk")
    assert (alice.id, "ack") in said[receipt:]  # of chunks that were under way
    assert strip(drawn.file)[0] == picture(512, 512, wanted.seed)[0]
    assert near.settled
    assert alice.host.errors == near.host.errors == []


# streams opened ahead


async def test_a_stream_opened_ahead_is_kept_a_minute_and_costs_no_conversation(
    autojump_clock, world, alice, near
):
    streams = [await alice.host.open_stream(near.id, TASK_PROTOCOL) for _ in range(3)]
    await trio.sleep(1)
    assert near.provider.statistics() | {"idle": 3, "talking": 0} == near.provider.statistics()
    await trio.sleep(2)
    assert await streams[2].receive_some() == b""  # one more than is kept
    await trio.sleep(50)
    talk = TaskStream(streams[0], Conversation(Role.REQUESTER))
    await talk.send(offer_of(alice, near, statement()))
    assert isinstance(await talk.receive(), Accept)
    await trio.sleep(7)
    assert await streams[1].receive_some() == b""  # its minute is over
    assert not near.host.errors


async def test_over_the_limit_of_all_an_offer_is_refused_as_busy(autojump_clock, world, alice, near):
    near.provider._streams.limits = replace(near.provider._streams.limits, talking=1)
    near.renderer.stage_us["step"] = 10_000_000
    first = await say(alice, near, offer_of(alice, near, statement()))
    assert isinstance(await first.receive(), Accept)
    second = await say(alice, near, offer_of(alice, near, statement(seed=8), b"b" * 16))
    assert (await second.receive()).code == "busy"
    third = await say(alice, near, Resume(b"a" * 16, 0, 0))
    with pytest.raises(PeerLost):
        await third.receive()
    assert not near.host.errors


# memory


async def test_a_renderer_that_grew_too_large_is_replaced_between_tasks(autojump_clock, world, alice, near):
    near.residents._memory_limit_bytes = 1 << 40
    near.renderer.used_bytes = 1 << 30
    await alice.ask()
    assert not near.renderer.retired
    near.renderer.used_bytes = 1 << 41
    drawn = [await alice.ask(statement(seed=seed)) for seed in range(3)]
    assert len(near.renderer.retired) == 1  # not for each picture: it may need as much as that
    (event,) = near.events("memory")
    assert event["renderer_mib"] == 1 << 21
    assert event["limit_mib"] == 1 << 20
    assert [bool(spans_us(each.timeline).get("start_renderer")) for each in drawn] == [False, True, False]
    await trio.sleep(600)
    await alice.ask()
    assert len(near.renderer.retired) == 2


async def test_a_load_that_takes_twice_as_long_as_the_last_one_is_waited_for(
    autojump_clock, alice, near, far
):
    near.renderer.load_us, far.renderer.load_us = 4_000_000, 8_000_000
    near.renderer.resident = far.renderer.resident = ()
    assert providers(await alice.ask(only=far.id), far)
    far.renderer.resident = ()
    await trio.sleep(60)
    await alice.ask()
    near.renderer.load_us = 10_000_000
    near.renderer.resident = ()
    await trio.sleep(60)  # alice is told
    assert providers(await alice.ask(), near)
