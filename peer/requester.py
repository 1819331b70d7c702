"""Has one picture drawn: carries out what the job decides, measures every span, checks what comes."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from protocol.errors import RemoteProtocolError
from protocol.policy.attention import AHEAD_OF_A_PLAN
from protocol.policy.demand import Demand
from protocol.policy.directory import Directory
from protocol.policy.job import Action as JobAction
from protocol.policy.job import (
    CancelAttempt,
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
    Tell,
)
from protocol.policy.prediction import observed
from protocol.policy.refusals import all_refused
from protocol.policy.rtt import Way
from protocol.policy.selection import Choice, NoCandidate, Plan
from protocol.policy.shortlist import Shortlists
from protocol.policy.timeline import Timeline
from protocol.wire.identity import key_of_untrusted, public_key_of
from protocol.wire.offer import ATTEMPT_BYTES, Offer, SignedOffer
from protocol.wire.receipt import Settled
from protocol.wire.statement import Statement
from protocol.wire.task import (
    Accept,
    Ack,
    Chunk,
    Failed,
    Loading,
    OfferMessage,
    Progress,
    ReceiptMessage,
    Refuse,
    Result,
    Resume,
    SettledMessage,
    Start,
)
from protocol.wire.transfer import Receiver

from .asking import Asked, Attempt, Events, JobFailed, Picture, Tried
from .check import CHECKED, Expected
from .clock import now_us
from .link import Links, Session
from .network import HostError
from .picture import Bundle, embed
from .reach import Line, Reach
from .task_stream import HungUp, PeerLost

OFFER_LIVES_US = 60_000_000
CANCEL_WITHIN_S = 2.0
REDIAL_EVERY_S = 0.25
LOST_SPAN = "lost"  # from the last thing that went well, to the end of an attempt that gave no picture


class Requester:
    """Asks for pictures on behalf of this peer."""

    def __init__(
        self,
        host: Any,
        links: Links,
        directory: Directory,
        *,
        demand: Demand,
        private_key: bytes,
        network: str,
        own_stream: Callable[[], Awaitable[Any]],
        keep: Callable[[Attempt, bytes, str], Awaitable[None]],
        name_of: Callable[[str], str],
        journal: Callable[..., None],
    ) -> None:
        self._host = host
        self._links = links
        self._directory = directory
        self._demand = demand
        self._lines: list[Line] = []  # open
        self._private_key = private_key
        self._key = public_key_of(private_key)
        self._network = network
        self._keep = keep
        self._name_of = name_of
        self._journal = journal
        self._shortlists = Shortlists()
        self._reach = Reach(host, links, directory, own_stream)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """While this runs, task streams to peers in use are opened ahead."""
        await self._reach.run(task_status=task_status)

    def statistics(self) -> dict[str, int]:
        return self._reach.statistics()

    def talks_with(self, peer: str) -> bool:
        """Whether a picture is being asked of `peer`."""
        return any(line.session.peer == peer for line in self._lines)

    async def render(
        self, statement: Statement, job_id: str, *, remote: bool, events: Events, asked: Asked
    ) -> Picture:
        """JobFailed, or the picture.  Cancelling it cancels the attempt at the provider."""
        self._links.stay_active()
        return await _Run(self, statement, job_id, remote, events, asked).run()


class _Run:
    """One picture's way through its job."""

    def __init__(
        self,
        requester: Requester,
        statement: Statement,
        job_id: str,
        remote: bool,
        events: Events,
        asked: Asked,
    ) -> None:
        self._r = requester
        self._statement = statement
        self._job_id = job_id
        self._remote = remote
        self._events = events
        self._wishes = asked.wishes
        self._job = Job()
        self._timeline = Timeline(asked.at_us)
        self._attempts: list[Attempt] = []
        self._plan: Plan | None = None
        self._first_plan: Plan | None = None
        self._choice: Choice | None = None
        self._line: Line | None = None
        self._picture: Picture | None = None
        handed_us = asked.at_us
        for name, start_us, us in asked.spans:
            self._span(name, start_us, start_us + us)
            handed_us = max(handed_us, start_us + us)
        self._span("submit", handed_us, now_us())

    async def run(self) -> Picture:
        actions: list[JobAction] = self._job.start()
        try:
            while True:
                following: list[JobAction] = []
                for action in actions:
                    match action:
                        case Finish():
                            assert self._picture is not None
                            return self._picture
                        case GiveUp(sentence):
                            raise self._failed(sentence)
                        case _:
                            following += await self._do(action)
                actions = following
        finally:
            with trio.CancelScope(deadline=trio.current_time() + CANCEL_WITHIN_S, shield=True):
                for action in self._job.cancel():
                    await self._do(action)
                await self._close()
            for attempt in self._attempts:
                self._r._directory.on_ended(attempt.choice.peer, attempt.id, now_us())

    def _failed(self, sentence: str) -> JobFailed:
        self._timeline.finish(now_us())
        failed = JobFailed(sentence, Tried(self._timeline, self._first_plan, tuple(self._attempts)))
        if self._attempts and failed.nobody:
            said = {attempt.choice.peer: attempt.sentence or "" for attempt in self._attempts}
            words = all_refused((self._r._name_of(peer), each) for peer, each in said.items())
            failed = JobFailed(words, failed.tried)
        return failed

    async def _do(self, action: JobAction) -> list[JobAction]:
        match action:
            case Replan(excluded):
                return self._replan(excluded)
            case MakeOffer(peer, number, forced):
                return await self._make_offer(peer, number, forced)
            case ResumeTransfer(peer, _, within_us):
                return await self._resume(peer, within_us)
            case Penalise(peer):
                self._r._directory.on_penalty(peer, now_us())
            case Tell(sentence):
                self._events.told(self._name(sentence))
            case CancelAttempt():
                await self._cancel()
            case HedgeAt() | PlanHedge():
                pass  # one attempt at a time: a late START is waited for as long as the conversation allows
        return []

    def _name(self, sentence: str) -> str:
        return (
            f"{self._r._name_of(self._attempts[-1].choice.peer)}: {sentence}" if self._attempts else sentence
        )

    def _span(self, name: str, start_us: int, end_us: int, *, observer: str | None = None) -> None:
        self._timeline.add(
            name,
            start_us,
            max(0, end_us - start_us),
            observer=observer or self._r._host.peer_id,
            attempt=self._attempts[-1].id if self._attempts else None,
            critical=True,
        )

    def _heard_span(self, name: str, start_us: int, heard_us: int, read_us: int) -> None:
        """What ended with a message that came at `heard_us`; and how long that then waited here until it was read."""
        self._span(name, start_us, heard_us)
        if read_us > heard_us:
            self._span("wake", heard_us, read_us)

    def _replan(self, excluded: frozenset[str]) -> list[JobAction]:
        began_us = now_us()
        try:
            self._plan = self._r._shortlists.plan(
                self._r._directory,
                self._statement,
                now_us=now_us(),
                own=not self._remote,
                excluded=excluded,
                seed=secrets.randbits(63),
                wishes=self._wishes,
            )
        except NoCandidate as exc:
            return self._job.on_no_candidate(str(exc))
        self._first_plan = self._first_plan or self._plan
        self._choice = self._plan.ranked[0]
        self._r._links.on_plan(choice.peer for choice in self._plan.ranked)
        self._r._journal(
            "planned",
            job=self._job_id,
            asked_us=self._timeline.asked_us,
            ranked=[
                {"peer": choice.peer, "predicted_us": choice.predicted_us} for choice in self._plan.ranked[:8]
            ],
        )
        self._events.planned(self._plan)
        self._span("plan", began_us, now_us())
        choice, now = self._choice, now_us()
        heard_us = self._r._directory.heard_us(choice.peer)
        return self._job.on_plan(Prospect.of(choice, heard_us=heard_us, now_us=now), now)

    async def _make_offer(self, peer: str, number: int, forced: bool) -> list[JobAction]:
        choice = self._choice
        assert choice is not None
        attempt = Attempt(secrets.token_bytes(ATTEMPT_BYTES), number, choice, unspanned_us=now_us())
        self._attempts.append(attempt)
        self._events.attempted(attempt)
        self._r._directory.on_offered(peer, attempt.id, choice.busy_us, now_us())
        if peer != self._r._host.peer_id:
            self._r._demand.on_offer(choice.busy_us, now_us())
        try:
            try:
                await self._open(peer, attempt.unspanned_us)
                return await self._offer(attempt, forced)
            except HungUp:
                if self._line is None or not self._line.opened_ahead or attempt.outcome != "offered":
                    raise
            # It had ended, or ended just then: nobody's fault and no loss.  The same again, on a stream for this.
            await self._open(peer, attempt.unspanned_us, fresh=True)
            return await self._offer(attempt, forced)
        except (HostError, PeerLost, RemoteProtocolError) as exc:
            return self._broke(attempt, exc)

    async def _offer(self, attempt: Attempt, forced: bool) -> list[JobAction]:
        line, choice = self._line, attempt.choice
        assert line is not None
        session = line.session
        assert session.hello is not None  # a session is there once hello was said
        began_us = attempt.unspanned_us = now_us()
        if attempt.offer is None or attempt.offered_in is not session:
            offer = Offer(
                statement=self._statement,
                provider=key_of_untrusted(choice.peer),
                boot_id=session.hello.boot_id,
                attempt=attempt.id,
                expires_us=session.remote_now_us() + OFFER_LIVES_US,
                max_wait_us=None if forced else choice.max_wait_us,
                price_cap_millionths=choice.price_millionths,  # as its advert has it: no more than is known now
                value_of_time_millionths=self._wishes.value_of_time_millionths,
            )
            attempt.offer = SignedOffer.sign(
                offer, network=self._r._network, private_key=self._r._private_key
            )
            attempt.offered_in = session
        sent_us = now_us()
        left_us = await line.say(OfferMessage(attempt.offer.envelope.to_bytes(), session.clock_us(sent_us)))
        self._span("address", began_us, left_us)
        return await self._converse(attempt, line, left_us, sent_us)

    async def _resume(self, peer: str, within_us: int) -> list[JobAction]:
        attempt = self._attempts[-1]
        assert attempt.receiver is not None
        give_up_us = now_us() + within_us
        while True:
            try:
                await self._open(peer, now_us(), fresh=True)
                break
            except (HostError, PeerLost, RemoteProtocolError) as exc:
                if now_us() >= give_up_us:
                    return self._broke(attempt, exc, resumable=False)
            await trio.sleep(REDIAL_EVERY_S)
        line = self._line
        assert line is not None
        session = line.session
        try:
            sent_us = now_us()
            left_us = await line.say(Resume(attempt.id, attempt.receiver.offset, session.clock_us(sent_us)))
            return await self._converse(attempt, line, left_us, sent_us)
        except (HostError, PeerLost, RemoteProtocolError) as exc:
            return self._broke(attempt, exc)

    def _broke(self, attempt: Attempt, exc: Exception, *, resumable: bool = True) -> list[JobAction]:
        attempt.sentence = str(exc)
        attempt.outcome = "lost"
        self._r._directory.on_ended(attempt.choice.peer, attempt.id, now_us())
        if isinstance(exc, RemoteProtocolError):
            attempt.outcome = "bad"
            actions = self._job.on_bad_result(attempt.number, f"what it sent does not hold ({exc})")
        else:
            actions = self._job.on_lost(attempt.number, str(exc), resumable=resumable)
        if not any(isinstance(action, ResumeTransfer) for action in actions):
            self._span(LOST_SPAN, attempt.unspanned_us, now_us())
        return actions

    async def _open(self, peer: str, began_us: int, *, fresh: bool = False) -> None:
        """A line to `peer`, which was needed since `began_us`."""
        await self._close()
        self._line = await self._r._reach.open(peer, fresh=fresh)
        self._r._lines.append(self._line)
        self._span("dial", began_us, now_us())

    async def _close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._r._lines.remove(line)
            await line.aclose()

    async def _converse(self, attempt: Attempt, line: Line, left_us: int, sent_us: int) -> list[JobAction]:
        """From the offer, which was said at `sent_us` and left at `left_us`, to the end of this attempt."""
        talk, session, job = line.talk, line.session, self._job
        resumed = attempt.result is not None
        peer = attempt.choice.peer
        heard_remote_us: int | None = None
        while True:
            message = await talk.receive()
            now = now_us()
            match message:
                case Accept():
                    if peer != self._r._host.peer_id:
                        session.on_exchange(sent_us, message.heard_us, message.sent_us, now)
                        self._r._directory.on_rtt(peer, max(0, talk.heard_us - left_us), now, Way.ANSWER)
                        self._r._directory.on_state(peer, message.state, now)
                    heard_remote_us = message.heard_us
                    if not resumed:
                        attempt.outcome = "accepted"
                        attempt.step_us, attempt.accepted_us = message.step_us, now
                        attempt.promised_us = message.wait_us + message.load_us
                        self._heard_span("offer", left_us, talk.heard_us, now)
                        attempt.unspanned_us = now
                        job.on_accepted(attempt.number, now + attempt.promised_us)
                    self._keep_ready(peer)
                case Refuse():
                    self._r._directory.on_ended(peer, attempt.id, now)  # it is not in the state that follows
                    if message.state is not None and peer != self._r._host.peer_id:
                        self._r._directory.on_state(peer, message.state, now)
                    self._heard_span("offer", left_us, talk.heard_us, now)
                    attempt.outcome, attempt.sentence = "refused", message.sentence
                    if resumed:
                        return job.on_bad_result(attempt.number, "it no longer has the picture")
                    return job.on_refused(
                        attempt.number, busy=message.code == "busy", sentence=message.sentence
                    )
                case Loading():
                    pass
                case Start():
                    attempt.outcome, attempt.step_us, attempt.started_us = "started", message.step_us, now
                    if attempt.promised_us is not None:
                        promised_us, took_us = attempt.promised_us, now - attempt.accepted_us
                        self._r._directory.on_start(
                            peer, attempt.id, promised_us=promised_us, took_us=took_us, now_us=now
                        )
                    if not resumed:
                        job.on_start(attempt.number)
                case Progress():
                    self._events.progressed(attempt.number, message)
                case Failed():
                    attempt.outcome, attempt.sentence = "failed", message.sentence
                    self._span(LOST_SPAN, attempt.unspanned_us, now)
                    self._r._directory.on_ended(peer, attempt.id, now)
                    return job.on_failed(
                        attempt.number,
                        requesters_fault=message.fault == "requester",
                        sentence=message.sentence,
                    )
                case Result():
                    if attempt.started_us is not None and attempt.ran_us is None:
                        attempt.ran_us = now - attempt.started_us
                    self._on_result(attempt, message, session, heard_remote_us)
                    self._r._directory.on_ended(peer, attempt.id, now)
                    job.on_result(attempt.number)
                case Chunk():
                    receiver = attempt.receiver
                    assert receiver is not None  # CHUNK follows RESULT: the conversation sees to it
                    receiver.on_chunk_untrusted(message.offset, message.data)
                    attempt.data += message.data
                    attempt.last_byte_us = now
                    acknowledge = receiver.ack()
                    if acknowledge is not None:
                        await talk.send(Ack(acknowledge))
                case ReceiptMessage():
                    if not resumed:
                        self._on_left(attempt, message)
                    return await self._on_receipt(attempt, message, line, now)
                case _:
                    raise RemoteProtocolError(f"{message.KIND} is not for a requester")

    def _keep_ready(self, peer: str) -> None:
        """Streams to the peer in use, and to those that the plan would turn to next."""
        assert self._plan is not None
        for each in [peer, *(choice.peer for choice in self._plan.ranked[:AHEAD_OF_A_PLAN])]:
            self._r._reach.keep(each)

    def _on_result(
        self, attempt: Attempt, result: Result, session: Session, heard_remote_us: int | None
    ) -> None:
        self._expected(attempt).check_announced_untrusted(result)
        if attempt.result is not None:
            if (result.file, result.file_bytes) != (attempt.result.file, attempt.result.file_bytes):
                raise RemoteProtocolError("it answers one attempt with two pictures")
            return
        attempt.result, attempt.outcome = result, "receiving"
        attempt.receiver = Receiver(result.file_bytes, result.file)
        attempt.result_local_us = attempt.unspanned_us = session.to_local_us(result.sent_us)
        attempt.left_us = attempt.result_local_us
        began_us = session.to_local_us(heard_remote_us or 0)
        for name, start_us, us in result.spans:
            self._span(name, began_us + start_us, began_us + start_us + us, observer=attempt.choice.peer)

    def _on_left(self, attempt: Attempt, message: ReceiptMessage) -> None:
        """What RESULT waited for the provider's machine after it was made, by the provider's word."""
        result, left_us = attempt.result, message.result_left_us
        if result is not None and left_us is not None and result.sent_us < left_us <= message.sent_us:
            attempt.left_us += left_us - result.sent_us
            self._span("leave", attempt.result_local_us, attempt.left_us, observer=attempt.choice.peer)

    async def _on_receipt(
        self, attempt: Attempt, message: ReceiptMessage, line: Line, read_us: int
    ) -> list[JobAction]:
        self._heard_span("transfer", attempt.left_us, line.talk.heard_us, read_us)
        self._r._journal(
            "received", job=self._job_id, attempt=attempt.id.hex(), offset_us=line.session.offset_us
        )
        if attempt.receiver is None or attempt.result is None:
            raise RemoteProtocolError("a receipt without a picture")
        attempt.receiver.finish_untrusted()
        file = bytes(attempt.data)
        signed = await trio.to_thread.run_sync(
            self._expected(attempt).receipt_untrusted, message.envelope, file
        )
        attempt.receipt, attempt.outcome = signed, "done"
        checked_us = now_us()
        self._span("check", read_us, checked_us)
        settled = Settled(attempt.id, signed.envelope.hash, accepted=True)
        envelope = settled.sign(network=self._r._network, private_key=self._r._private_key)
        await self._r._keep(attempt, envelope.to_bytes(), self._job_id)
        saved_us = now_us()
        self._span("save", checked_us, saved_us)
        bundle = Bundle(self._r._network, signed.envelope.to_bytes())
        whole = await trio.to_thread.run_sync(embed, file, bundle.to_bytes())
        done_us = now_us()
        self._span("embed", saved_us, done_us)
        self._timeline.finish(done_us)
        actions = self._job.on_checked(attempt.number)
        self._drawn(attempt, whole)
        try:
            await line.talk.send(SettledMessage(envelope.to_bytes(), line.session.clock_us()))
        except PeerLost:
            pass  # it has our bytes' receipt and we have its: the ledger is ours to show
        self._learn(attempt, file)
        return actions

    def _expected(self, attempt: Attempt) -> Expected:
        return Expected(
            self._r._network,
            self._statement,
            attempt.id,
            attempt.choice.peer,
            self._r._key,
            attempt.choice.price_millionths,
        )

    def _drawn(self, attempt: Attempt, file: bytes) -> None:
        assert self._first_plan is not None
        self._picture = Picture(
            statement=self._statement,
            file=file,
            provider=attempt.choice.peer,
            checked=CHECKED,
            timeline=self._timeline,
            plan=self._first_plan,
            attempts=tuple(self._attempts),
        )
        self._events.drawn(self._picture)

    def _learn(self, attempt: Attempt, file: bytes) -> None:
        """What this attempt showed of the peer's speed."""
        result = attempt.result
        assert result is not None
        speeds, peer = self._r._directory.speeds, attempt.choice.peer
        if peer == self._r._host.peer_id:
            return
        if attempt.ran_us is not None:
            step_us, fixed_us = observed(result.spans, self._statement.steps, attempt.ran_us)
            speeds.on_render(peer, self._statement, step_us=step_us, fixed_us=fixed_us)
        moved_us = attempt.last_byte_us - attempt.result_local_us
        rtt = self._r._directory.rtt(peer)
        if rtt is not None and moved_us > 0:
            speeds.on_transfer(peer, len(file), moved_us, rtt_us=rtt.min_us)

    async def _cancel(self) -> None:
        line = self._line
        if line is None:
            return
        try:
            if await line.talk.cancel(line.session.clock_us()):
                while not isinstance(await line.talk.receive(), ReceiptMessage | Failed | Refuse):
                    pass
        except (PeerLost, RemoteProtocolError):
            pass  # it is cancelled for us either way; the provider stops what nobody follows
