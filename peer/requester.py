"""Has one picture drawn: carries out what the job decides, measures every span, checks what comes."""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from protocol.errors import RemoteProtocolError
from protocol.policy.directory import Directory
from protocol.policy.job import Action as JobAction
from protocol.policy.job import (
    CancelAttempt,
    Finish,
    GiveUp,
    Job,
    MakeOffer,
    Penalise,
    Replan,
    ResumeTransfer,
    Tell,
)
from protocol.policy.selection import Choice, NoCandidate, Plan, plan
from protocol.policy.timeline import Timeline
from protocol.wire.conversation import Conversation, Role
from protocol.wire.identity import key_of_untrusted, public_key_of
from protocol.wire.offer import ATTEMPT_BYTES, Offer, SignedOffer
from protocol.wire.receipt import Settled, SignedReceipt, pixel_hash
from protocol.wire.statement import Statement
from protocol.wire.task import (
    PROTOCOL,
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

from .clock import now_us
from .link import Links, Session
from .network import DialFailed, HostError
from .picture import Bundle, check_picture_untrusted, embed
from .task_stream import PeerLost, TaskStream

OFFER_LIVES_US = 60_000_000
HELLO_WITHIN_S = 5.0
CANCEL_WITHIN_S = 2.0
REDIAL_EVERY_S = 0.25
LOST_SPAN = "lost"  # from the last thing that went well, to the end of an attempt that gave no picture


class JobFailed(Exception):
    """No picture: the sentence says which constraint binds, or what went wrong last."""

    def __init__(self, sentence: str, *, nobody: bool) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.nobody = nobody  # there was nobody to ask


@dataclass
class Attempt:
    """One offer to one peer, and what came of it."""

    id: bytes
    number: int
    choice: Choice
    offer: SignedOffer | None = None
    result: Result | None = None
    result_local_us: int = 0
    unspanned_us: int = 0  # until then, spans say where its time went
    receiver: Receiver | None = None
    data: bytearray = field(default_factory=bytearray)
    receipt: SignedReceipt | None = None
    step_us: int | None = None
    outcome: str = "offered"
    sentence: str | None = None
    last_byte_us: int = 0


@dataclass(frozen=True)
class Events:
    """Whom to tell what.  All are called from the event loop and must not block."""

    planned: Callable[[Plan], None]
    attempted: Callable[[Attempt], None]
    told: Callable[[str], None]
    progressed: Callable[[int, Progress], None]


@dataclass(frozen=True)
class Picture:
    """A checked picture: the file with the receipt in it, and how it came to be."""

    statement: Statement
    file: bytes
    provider: str
    checked: tuple[str, ...]
    timeline: Timeline
    plan: Plan
    attempts: tuple[Attempt, ...]


class Requester:
    """Asks for pictures on behalf of this peer."""

    def __init__(
        self,
        host: Any,
        links: Links,
        directory: Directory,
        *,
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
        self._private_key = private_key
        self._key = public_key_of(private_key)
        self._network = network
        self._own_stream = own_stream
        self._keep = keep
        self._name_of = name_of
        self._journal = journal

    async def render(
        self, statement: Statement, job_id: str, *, remote: bool, events: Events, asked_us: int
    ) -> Picture:
        """JobFailed, or the picture.  Cancelling it cancels the attempt at the provider."""
        self._links.stay_active()
        return await _Run(self, statement, job_id, remote, events, asked_us).run()


class _Run:
    """One picture's way through its job."""

    def __init__(
        self,
        requester: Requester,
        statement: Statement,
        job_id: str,
        remote: bool,
        events: Events,
        asked_us: int,
    ) -> None:
        self._r = requester
        self._statement = statement
        self._job_id = job_id
        self._remote = remote
        self._events = events
        self._job = Job()
        self._timeline = Timeline(asked_us)
        self._attempts: list[Attempt] = []
        self._plan: Plan | None = None
        self._first_plan: Plan | None = None
        self._choice: Choice | None = None
        self._talk: TaskStream | None = None
        self._session: Session | None = None

    async def run(self) -> Picture:
        actions: list[JobAction] = self._job.start()
        try:
            while True:
                following: list[JobAction] = []
                for action in actions:
                    match action:
                        case Finish():
                            return self._picture()
                        case GiveUp(sentence):
                            raise JobFailed(sentence, nobody=self._job.attempts == 0)
                        case _:
                            following += await self._do(action)
                actions = following
        finally:
            with trio.CancelScope(deadline=trio.current_time() + CANCEL_WITHIN_S, shield=True):
                for action in self._job.cancel():
                    await self._do(action)
                if self._talk is not None:
                    await self._talk.aclose()
            for attempt in self._attempts:
                self._r._directory.on_ended(attempt.choice.peer, attempt.id)

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

    def _replan(self, excluded: frozenset[str]) -> list[JobAction]:
        began_us = now_us() if self._attempts else self._timeline.asked_us
        candidates = self._r._directory.candidates(now_us(), own=not self._remote)
        try:
            self._plan = plan(
                candidates, self._statement, now_us=now_us(), excluded=excluded, seed=secrets.randbits(63)
            )
        except NoCandidate as exc:
            return self._job.on_no_candidate(str(exc))
        self._first_plan = self._first_plan or self._plan
        self._choice = self._plan.ranked[0]
        self._r._journal(
            "planned",
            job=self._job_id,
            ranked=[
                {"peer": choice.peer, "predicted_us": choice.predicted_us} for choice in self._plan.ranked[:8]
            ],
        )
        self._events.planned(self._plan)
        self._span("plan", began_us, now_us())
        return self._job.on_plan(self._choice.peer)

    async def _make_offer(self, peer: str, number: int, forced: bool) -> list[JobAction]:
        choice = self._choice
        assert choice is not None
        attempt = Attempt(secrets.token_bytes(ATTEMPT_BYTES), number, choice, unspanned_us=now_us())
        self._attempts.append(attempt)
        self._events.attempted(attempt)
        self._r._directory.on_offered(peer, attempt.id, choice.busy_us, now_us())
        try:
            await self._open(peer)
            session, talk = self._session, self._talk
            assert session is not None
            assert talk is not None
            began_us = attempt.unspanned_us = now_us()
            offer = Offer(
                statement=self._statement,
                provider=key_of_untrusted(peer),
                boot_id=session.hello.boot_id if session.hello else b"",
                attempt=attempt.id,
                expires_us=session.remote_now_us() + OFFER_LIVES_US,
                max_wait_us=None if forced else choice.max_wait_us,
            )
            attempt.offer = SignedOffer.sign(
                offer, network=self._r._network, private_key=self._r._private_key
            )
            sent_us = now_us()
            await talk.send(OfferMessage(attempt.offer.envelope.to_bytes(), session.clock_us(sent_us)))
            return await self._converse(attempt, began_us, sent_us)
        except (HostError, PeerLost, RemoteProtocolError) as exc:
            return self._broke(attempt, exc)

    async def _resume(self, peer: str, within_us: int) -> list[JobAction]:
        attempt = self._attempts[-1]
        assert attempt.receiver is not None
        give_up_us = now_us() + within_us
        while True:
            try:
                await self._open(peer)
                break
            except (HostError, PeerLost, RemoteProtocolError) as exc:
                if now_us() >= give_up_us:
                    return self._broke(attempt, exc, resumable=False)
            await trio.sleep(REDIAL_EVERY_S)
        session, talk = self._session, self._talk
        assert session is not None
        assert talk is not None
        try:
            sent_us = now_us()
            await talk.send(Resume(attempt.id, attempt.receiver.offset, session.clock_us(sent_us)))
            return await self._converse(attempt, sent_us, sent_us)
        except (HostError, PeerLost, RemoteProtocolError) as exc:
            return self._broke(attempt, exc)

    def _broke(self, attempt: Attempt, exc: Exception, *, resumable: bool = True) -> list[JobAction]:
        attempt.sentence = str(exc)
        attempt.outcome = "lost"
        self._r._directory.on_ended(attempt.choice.peer, attempt.id)
        if isinstance(exc, RemoteProtocolError):
            attempt.outcome = "bad"
            actions = self._job.on_bad_result(f"what it sent does not hold ({exc})")
        else:
            actions = self._job.on_lost(str(exc), resumable=resumable)
        if not any(isinstance(action, ResumeTransfer) for action in actions):
            self._span(LOST_SPAN, attempt.unspanned_us, now_us())
        return actions

    async def _open(self, peer: str) -> None:
        """A task stream to `peer`, over a new connection if need be."""
        began_us = now_us()
        if self._talk is not None:
            await self._talk.aclose()
            self._talk = None
        if peer == self._r._host.peer_id:
            stream: Any = await self._r._own_stream()
        else:
            if peer not in self._r._host.connected():
                await self._dial(peer)
            await self._r._links.wait_session(peer, HELLO_WITHIN_S)
            stream = await self._r._host.open_stream(peer, PROTOCOL)
        self._session = self._r._links.session(peer)
        if self._session is None:
            raise PeerLost("the connection was lost")
        rtt = self._r._directory.rtt(peer)
        conversation = Conversation(Role.REQUESTER, round_trip_us=rtt.min_us + rtt.jitter_us if rtt else 0)
        self._talk = TaskStream(stream, conversation)
        self._span("dial", began_us, now_us())

    async def _dial(self, peer: str) -> None:
        signed = self._r._directory.signed_advert(peer)
        error: HostError = DialFailed(peer, "it told no address")
        for address in signed.advert.addresses if signed else ():
            try:
                await self._r._host.dial(address)
                return
            except HostError as exc:
                error = exc
        raise error

    async def _converse(self, attempt: Attempt, began_us: int, sent_us: int) -> list[JobAction]:
        """From the offer to the end of this attempt."""
        talk, session, job = self._talk, self._session, self._job
        assert talk is not None
        assert session is not None
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
                        self._r._directory.on_state(peer, message.state, now)
                    heard_remote_us = message.heard_us
                    if not resumed:
                        attempt.outcome = "accepted"
                        attempt.step_us = message.step_us
                        self._span("offer", began_us, now)
                        attempt.unspanned_us = now
                        job.on_accepted()
                case Refuse():
                    if message.state is not None and peer != self._r._host.peer_id:
                        self._r._directory.on_state(peer, message.state, now)
                    self._r._directory.on_ended(peer, attempt.id)
                    self._span("offer", began_us, now)
                    attempt.outcome, attempt.sentence = "refused", message.sentence
                    if resumed:
                        return job.on_bad_result("it no longer has the picture")
                    return job.on_refused(busy=message.code == "busy", sentence=message.sentence)
                case Loading():
                    pass
                case Start():
                    attempt.outcome, attempt.step_us = "started", message.step_us
                case Progress():
                    self._events.progressed(attempt.number, message)
                case Failed():
                    attempt.outcome, attempt.sentence = "failed", message.sentence
                    self._span(LOST_SPAN, attempt.unspanned_us, now)
                    self._r._directory.on_ended(peer, attempt.id)
                    return job.on_failed(
                        requesters_fault=message.fault == "requester", sentence=message.sentence
                    )
                case Result():
                    self._on_result(attempt, message, session, heard_remote_us)
                    job.on_result()
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
                    return await self._on_receipt(attempt, message, talk, session, now)
                case _:
                    raise RemoteProtocolError(f"{message.KIND} is not for a requester")

    def _on_result(
        self, attempt: Attempt, result: Result, session: Session, heard_remote_us: int | None
    ) -> None:
        wanted = self._statement
        if (result.width, result.height, result.codec) != (wanted.width, wanted.height, wanted.codec):
            raise RemoteProtocolError("the picture is not of the size or format that was asked for")
        if result.file_bytes > most_bytes(wanted):
            raise RemoteProtocolError(f"a file of {result.file_bytes} bytes is too large for this picture")
        if attempt.result is not None:
            if (result.file, result.file_bytes) != (attempt.result.file, attempt.result.file_bytes):
                raise RemoteProtocolError("it answers one attempt with two pictures")
            return
        attempt.result, attempt.outcome = result, "receiving"
        attempt.receiver = Receiver(result.file_bytes, result.file)
        attempt.result_local_us = attempt.unspanned_us = session.to_local_us(result.sent_us)
        began_us = session.to_local_us(heard_remote_us or 0)
        for name, start_us, us in result.spans:
            self._span(name, began_us + start_us, began_us + start_us + us, observer=attempt.choice.peer)

    async def _on_receipt(
        self, attempt: Attempt, message: ReceiptMessage, talk: TaskStream, session: Session, heard_us: int
    ) -> list[JobAction]:
        self._span("transfer", attempt.result_local_us, heard_us)
        if attempt.receiver is None or attempt.result is None:
            raise RemoteProtocolError("a receipt without a picture")
        attempt.receiver.finish_untrusted()
        file = bytes(attempt.data)
        signed = SignedReceipt.from_untrusted(message.envelope, network=self._r._network)
        receipt, wanted = signed.receipt, self._statement
        if signed.provider != attempt.choice.peer:
            raise RemoteProtocolError("the receipt was signed by another peer")
        if (receipt.attempt, receipt.statement, receipt.requester) != (attempt.id, wanted.hash, self._r._key):
            raise RemoteProtocolError("the receipt is for another picture")
        if receipt.outcome != "done" or receipt.steps_done < 1:
            raise RemoteProtocolError("the receipt says that the picture was not finished")
        if receipt.file != hashlib.sha256(file).digest() or receipt.file_bytes != len(file):
            raise RemoteProtocolError("the receipt is for another file")
        rgb = await trio.to_thread.run_sync(check_picture_untrusted, file, wanted.width, wanted.height)
        if receipt.pixels != pixel_hash(rgb, width=wanted.width, height=wanted.height):
            raise RemoteProtocolError("the receipt is for other pixels")
        attempt.receipt, attempt.outcome = signed, "done"
        checked_us = now_us()
        self._span("check", heard_us, checked_us)
        settled = Settled(attempt.id, signed.envelope.hash, accepted=True)
        envelope = settled.sign(network=self._r._network, private_key=self._r._private_key)
        await self._r._keep(attempt, envelope.to_bytes(), self._job_id)
        self._span("save", checked_us, now_us())
        self._timeline.finish(now_us())
        try:
            await talk.send(SettledMessage(envelope.to_bytes(), session.clock_us()))
        except PeerLost:
            pass  # it has our bytes' receipt and we have its: the ledger is ours to show
        self._learn(attempt, file)
        return self._job.on_checked()

    def _learn(self, attempt: Attempt, file: bytes) -> None:
        """What this attempt showed of the peer's speed."""
        result = attempt.result
        assert result is not None
        steps = sorted(us for name, _, us in result.spans if name == "step")
        fixed = sum(us for name, _, us in result.spans if name not in ("step", "wait", "load_weights"))
        speeds, peer = self._r._directory.speeds, attempt.choice.peer
        if steps and peer != self._r._host.peer_id:
            median_us = max(1, steps[len(steps) // 2])
            speeds.on_render(peer, self._statement, step_us=median_us, fixed_us=fixed)
            moved_us = attempt.last_byte_us - attempt.result_local_us
            if moved_us > 0:
                speeds.on_transfer(peer, len(file), moved_us)

    async def _cancel(self) -> None:
        if self._talk is None or self._session is None:
            return
        try:
            if await self._talk.cancel(self._session.clock_us()):
                while not isinstance(await self._talk.receive(), ReceiptMessage | Failed | Refuse):
                    pass
        except (PeerLost, RemoteProtocolError):
            pass  # it is cancelled for us either way; the provider stops what nobody follows

    def _picture(self) -> Picture:
        attempt = self._attempts[-1]
        assert attempt.receipt is not None
        assert self._first_plan is not None
        bundle = Bundle(self._r._network, attempt.receipt.envelope.to_bytes())
        return Picture(
            statement=self._statement,
            file=embed(bytes(attempt.data), bundle.to_bytes()),
            provider=attempt.choice.peer,
            checked=("signature", "statement", "file", "pixels"),
            timeline=self._timeline,
            plan=self._first_plan,
            attempts=tuple(self._attempts),
        )


def most_bytes(statement: Statement) -> int:
    """No PNG of this size is larger: RGBA rows uncompressed, and as much again for chunks."""
    return 8 * statement.pixels + (1 << 16)
