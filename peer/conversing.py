"""One attempt: the conversation with one peer about one picture, from opening a stream to the last word on it.

What it hears it tells the job at once, and goes on until the conversation is over - also where the picture is not wanted
any more: what the peer still says is news of that peer, and steps done are owed.
"""

from collections.abc import Awaitable, Callable

import trio

from protocol.errors import RemoteProtocolError
from protocol.policy.job import State
from protocol.policy.rtt import Way
from protocol.wire.identity import key_of_untrusted
from protocol.wire.offer import Offer, SignedOffer
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

from .asking import Attempt, Errand, Means
from .clock import now_us
from .delivery import Delivery
from .link import Session
from .network import HostError, NobodyListens
from .reach import Line
from .task_stream import HungUp, PeerLost

OFFER_LIVES_US = 60_000_000
REDIAL_EVERY_S = 0.25
CANCEL_WITHIN_S = 2.0  # for the last word, when whoever asked is leaving
# For that of one whose picture is not wanted: it ends with a step, and who waits for longer ones?
DISMISSED_S = 60.0


class Conversing:
    """`run` is the one task that reads; what is said by others in between - `dismiss`, `resume` - returns at once."""

    def __init__(self, means: Means, errand: Errand, attempt: Attempt) -> None:
        self.attempt = attempt
        self._means = means
        self._errand = errand
        self._delivery = Delivery(means, errand, attempt)
        self._line: Line | None = None
        self._dismissed = False
        self._late = False
        self._reading = trio.CancelScope()
        self._resume_within_us: int | None = None
        self._sent_us = self._left_us = 0  # when the first word was said, and when it left this machine
        self._heard_remote_us = 0  # when it was heard, on the peer's clock of this connection
        self._unsettled: ReceiptMessage | None = None  # heard, and not answered yet

    async def run(self, forced: bool) -> None:
        """To its end, whatever that is.  Cancelled, it says CANCEL, and hears what comes of that if it comes soon."""
        try:
            with self._reading:
                await self._guarded(self._ask, forced)
                while self._resume_within_us is not None:
                    within_us, self._resume_within_us = self._resume_within_us, None
                    await self._guarded(self._fetch_rest, within_us)
        except trio.Cancelled:
            self._errand.on_leaving()
            with trio.CancelScope(deadline=trio.current_time() + CANCEL_WITHIN_S, shield=True):
                await self._guarded(self._take_leave)
            raise
        finally:
            await self._close()

    def dismiss(self) -> None:
        """Its picture is not wanted any more; the peer is yet to be told, by `say_cancel`."""
        self._note("cancelled" if self._errand.job.state is State.CANCELLED else "outrun")
        self._dismissed = True
        self._reading.deadline = trio.current_time() + DISMISSED_S
        now = now_us()
        self._learn_no_start(now)
        self._means.directory.on_ended(self.attempt.choice.peer, self.attempt.id, now)

    async def say_cancel(self) -> None:
        """If that still means anything: nothing was offered, or it was said before, or all is over."""
        if self._line is not None:
            try:
                await self._line.talk.cancel(self._line.session.clock_us())
            except PeerLost:
                pass  # which `run` hears

    def on_late(self) -> None:
        """Its START is late: where it is dialled still, that counts as a failure, until it answers."""
        if self._line is None and not self._late:
            self._late = True
            self._means.directory.on_unreached(self.attempt.choice.peer, now_us(), for_picture=True)

    def resume(self, within_us: int) -> None:
        """The connection broke: the rest of the picture is fetched, if the peer comes back within that time."""
        self._resume_within_us = within_us

    async def _guarded(self, do: Callable[..., Awaitable[None]], *what: object) -> None:
        try:
            await do(*what)
        except (HostError, PeerLost, RemoteProtocolError) as exc:
            self._broke(exc)

    def _broke(self, exc: Exception, *, resumable: bool = True) -> None:
        attempt, job = self.attempt, self._errand.job
        if isinstance(exc, RemoteProtocolError):
            self._note("bad", str(exc))
            actions = job.on_bad_result(attempt.number, f"what it sent does not hold ({exc})")
        else:
            self._note("lost", str(exc))
            actions = job.on_lost(attempt.number, str(exc), now_us(), resumable=resumable)
        if attempt.number in job.under_way:  # it may come back
            self._means.directory.on_ended(attempt.choice.peer, attempt.id, now_us())
        else:
            now = now_us()
            if not self._dismissed:
                self._learn_no_start(now)
            self._on_end(now)
        self._errand.carry_out(actions)

    # lines, and the first word on them

    async def _open(self, began_us: int, *, fresh: bool = False) -> Line | None:
        """A line to its peer, which was needed since `began_us`; None: not any more, but it could be had."""
        await self._close()
        self._line = await self._means.reach.open(self.attempt.choice.peer, fresh=fresh)
        self._means.lines.append(self._line)
        self._line.talk.conversation.patience = self.attempt.plan.patience
        self._span("dial", began_us, now_us())
        return None if self._dismissed else self._line

    async def _close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._means.lines.remove(line)
            await line.aclose()

    async def _ask(self, forced: bool) -> None:
        began_us = self.attempt.leg.spanned_us
        try:
            line = await self._open(began_us)
            if line is not None:
                await self._offer(line, forced)
        except HungUp:
            if self._line is None or not self._line.opened_ahead or self.attempt.accepted_us is not None:
                raise
            # It had ended, or ended just then: nobody's fault and no loss.  The same again, on a stream for this.
            line = await self._open(began_us, fresh=True)
            if line is not None:
                await self._offer(line, forced)

    async def _offer(self, line: Line, forced: bool) -> None:
        attempt, session = self.attempt, line.session
        began_us = attempt.leg.spanned_us = now_us()
        if attempt.offer is None or attempt.offered_in is not session:
            attempt.offer, attempt.offered_in = self._sign_offer(session, forced), session
        self._sent_us = now_us()
        envelope = attempt.offer.envelope.to_bytes()
        self._left_us = await line.say(OfferMessage(envelope, session.clock_us(self._sent_us)))
        self._span("address", began_us, self._left_us)
        await self._converse(line)

    def _sign_offer(self, session: Session, forced: bool) -> SignedOffer:
        choice, wishes, means = self.attempt.choice, self._errand.wishes, self._means
        assert session.hello is not None  # a session is there once hello was said
        ready_us = wishes.ready_within_us(choice.prediction.transfer_us, now_us())
        there_us = session.remote_now_us()
        offer = Offer(
            statement=self._errand.statement,
            provider=key_of_untrusted(choice.peer),
            boot_id=session.hello.boot_id,
            attempt=self.attempt.id,
            expires_us=there_us + OFFER_LIVES_US,
            max_wait_us=None if forced else choice.max_wait_us,
            price_cap_millionths=choice.price_millionths,  # as its advert has it: no more than is known now
            value_of_time_millionths=wishes.value_of_time_millionths,
            due_us=None if ready_us is None else there_us + ready_us,
        )
        return SignedOffer.sign(offer, network=means.network, private_key=means.private_key)

    async def _fetch_rest(self, within_us: int) -> None:
        attempt, give_up_us = self.attempt, now_us() + within_us
        assert attempt.receiver is not None
        while True:
            try:
                line = await self._open(now_us(), fresh=True)
                break
            except (HostError, PeerLost, RemoteProtocolError) as exc:
                if now_us() >= give_up_us or isinstance(exc, NobodyListens):
                    self._broke(exc, resumable=False)
                    return
            await trio.sleep(REDIAL_EVERY_S)
        if line is not None:
            self._sent_us = now_us()
            told_us = line.session.clock_us(self._sent_us)
            self._left_us = await line.say(Resume(attempt.id, attempt.receiver.offset, told_us))
            await self._converse(line)

    async def _take_leave(self) -> None:
        line = self._line
        if line is not None and self._unsettled is not None:
            await self._on_last_receipt(self._unsettled, line)
        elif line is not None and await line.talk.cancel(line.session.clock_us()):
            await self._converse(line)

    # what is heard

    async def _converse(self, line: Line) -> None:
        """To the end of what is said on `line`."""
        talk, attempt, directory, job = line.talk, self.attempt, self._means.directory, self._errand.job
        number, peer, tell, own = (
            attempt.number,
            attempt.choice.peer,
            self._errand.carry_out,
            self._means.peer,
        )
        resumed = attempt.result is not None
        while True:
            message = await talk.receive()
            now = now_us()
            if isinstance(message, Accept | Refuse):
                self._on_answer(message, line, now)
            match message:
                case Accept():
                    self._on_accept(message, line, now, resumed=resumed)
                    if not resumed and attempt.promised_us is not None:
                        start_us = now + attempt.promised_us
                        directory.on_accepted(peer, attempt.id, start_us)
                        tell(job.on_accepted(number, start_us))
                    if not self._dismissed:
                        self._errand.on_accepted(attempt)
                case Refuse() if resumed:
                    self._broke(PeerLost("it no longer has the picture"), resumable=False)
                    return
                case Refuse():
                    self._on_end(now)  # it is not in the state that follows
                    busy = message.code == "busy"
                    if message.state is not None:
                        directory.on_state(peer, message.state, now)
                    offer = attempt.offer.offer if attempt.offer is not None else None
                    if busy and offer is not None and offer.due_us is None:  # or it had time, but not enough
                        directory.on_refused(
                            peer, max_wait_us=offer.max_wait_us, busy_us=attempt.choice.busy_us, now_us=now
                        )
                    attempt.leg.add_heard("offer", self._left_us, talk.heard_us, now, observer=own)
                    attempt.leg.spanned_us = now
                    self._note("refused", message.sentence)
                    attempt.final = message.code != "busy"
                    tell(job.on_refused(number, busy=busy, sentence=message.sentence))
                    return
                case Loading():
                    pass
                case Start():
                    attempt.step_us, attempt.started_us = message.step_us, now
                    self._note("started")
                    self._learn_start(now)
                    if not resumed:
                        tell(job.on_start(number))
                case Progress():
                    if message.step > self._errand.statement.steps:
                        raise RemoteProtocolError(
                            f"it did {message.step} steps of {self._errand.statement.steps}"
                        )
                    attempt.steps, attempt.stepped_us = message.step, now
                    if not self._dismissed:
                        self._errand.on_progress(attempt, message)
                case Failed():
                    self._on_end(now)
                    self._note("failed", message.sentence)
                    attempt.final = message.fault == "requester"
                    tell(job.on_failed(number, fault=message.fault, sentence=message.sentence))
                    return
                case Result():
                    self._delivery.on_result_untrusted(message, line.session, self._heard_remote_us, now)
                    self._note("receiving")
                    attempt.promised_us = None  # whether START was said or not
                    directory.on_ended(peer, attempt.id, now)
                    tell(job.on_result(number))
                case Chunk():
                    acknowledge = self._delivery.on_chunk_untrusted(message, now)
                    if acknowledge is not None:
                        await talk.send(Ack(acknowledge))
                case ReceiptMessage():
                    self._unsettled = message
                    if self._dismissed:
                        await self._on_last_receipt(message, line)
                    else:
                        await self._on_receipt(message, line, now, resumed=resumed)
                    self._unsettled = None
                    return
                case _:
                    raise RemoteProtocolError(f"{message.KIND} is not for a requester")

    def _on_answer(self, message: Accept | Refuse, line: Line, now: int) -> None:
        """What it shows of the way and of the peer's clock.  RemoteProtocolError if that clock contradicts itself.

        It counts from when it was read: the stamp of its arrival is wrong where somebody sets the wall clock.
        """
        peer = self.attempt.choice.peer
        if peer != self._means.peer:
            line.session.on_exchange(self._sent_us, message.heard_us, message.sent_us, now)
            self._means.directory.on_rtt(peer, now - self._sent_us, now, Way.ANSWER)

    def _on_accept(self, message: Accept, line: Line, now: int, *, resumed: bool) -> None:
        attempt, directory, heard_us = self.attempt, self._means.directory, line.talk.heard_us
        peer, own = attempt.choice.peer, self._means.peer
        if peer != own:
            directory.on_state(peer, message.state, now)
        self._heard_remote_us = message.heard_us
        if not resumed:
            self._note("accepted")
            attempt.step_us, attempt.accepted_us = message.step_us, now
            most_us = attempt.offer.offer.max_wait_us if attempt.offer is not None else None
            attempt.promised_us = attempt.choice.start_within_us(message.wait_us, message.load_us, most_us)
            if message.load_us and not self._errand.statement.adapters:  # which would be in it, too
                attempt.loads_after_us = message.wait_us
            attempt.leg.add_heard("offer", self._left_us, heard_us, now, observer=own)
            attempt.leg.spanned_us = now

    def _learn_start(self, now: int) -> None:
        """Where a start was promised, how long that took; once."""
        attempt = self.attempt
        promised_us, attempt.promised_us = attempt.promised_us, None
        if promised_us is not None and attempt.accepted_us is not None:
            self._means.directory.on_start(
                attempt.choice.peer,
                attempt.id,
                promised_us=promised_us,
                took_us=now - attempt.accepted_us,
                now_us=now,
            )

    def _learn_no_start(self, now: int) -> None:
        """It is no longer waited for: where it is later than it promised, it would have been later still; once."""
        attempt = self.attempt
        if attempt.promised_us is None or attempt.accepted_us is None:
            return
        promised_us, took_us = attempt.promised_us, now - attempt.accepted_us
        attempt.promised_us = None
        if took_us > promised_us:
            self._means.directory.on_no_start(
                attempt.choice.peer, promised_us=promised_us, took_us=took_us, now_us=now
            )

    async def _on_receipt(self, message: ReceiptMessage, line: Line, read_us: int, *, resumed: bool) -> None:
        attempt, means, delivery = self.attempt, self._means, self._delivery
        if not resumed:
            delivery.on_left(message)
        heard_us = line.talk.heard_us
        attempt.leg.add_heard("transfer", attempt.left_us, heard_us, read_us, observer=means.peer)
        means.journal(
            "received",
            job=self._errand.job_id,
            attempt=attempt.id.hex(),
            offset_us=line.session.offset_us,
        )
        settled = await delivery.finish_untrusted(message.envelope, read_us)
        await self._say_settled(line, settled)
        delivery.learn(resumed=resumed)
        self._errand.carry_out(self._errand.job.on_checked(attempt.number))

    async def _on_last_receipt(self, message: ReceiptMessage, line: Line) -> None:
        settled = await self._delivery.cancelled_untrusted(message.envelope)
        if settled is not None:
            await self._say_settled(line, settled)

    async def _say_settled(self, line: Line, envelope: bytes) -> None:
        try:
            await line.talk.send(SettledMessage(envelope, line.session.clock_us()))
        except PeerLost:
            pass  # it has our bytes' receipt and we have its: the ledger is ours to show

    def _on_end(self, now: int) -> None:
        """It gives no picture; but what it drew shows how fast it is."""
        attempt, directory = self.attempt, self._means.directory
        if attempt.started_us is not None and attempt.steps and attempt.choice.peer != self._means.peer:
            us = attempt.stepped_us - attempt.started_us
            directory.speeds.on_steps(attempt.choice.peer, self._errand.statement, attempt.steps, us)
            attempt.steps = 0
        directory.on_ended(attempt.choice.peer, attempt.id, now)
        if not self._dismissed:
            self.attempt.leg.ended_us = now

    def _note(self, outcome: str, sentence: str | None = None) -> None:
        """How it stands, for people; what becomes of it once it is not wanted is told to nobody."""
        if not self._dismissed and self.attempt.outcome != "done":
            self.attempt.outcome, self.attempt.sentence = outcome, sentence

    def _span(self, name: str, start_us: int, end_us: int) -> None:
        self.attempt.leg.add(name, start_us, end_us, observer=self._means.peer)
