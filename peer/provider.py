"""The conversations about a provider's work: answers offers, tells how a task goes, sends what comes of it."""

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from protocol.errors import RemoteProtocolError, UnknownCriticalField
from protocol.policy.credits import shown_credits
from protocol.policy.queue import Refused
from protocol.policy.streams import Streams
from protocol.wire.advert import Limits
from protocol.wire.conversation import ACK_WITHIN_US, HEARTBEAT_US, Conversation, Role
from protocol.wire.hello import LiveState
from protocol.wire.identity import public_key_of
from protocol.wire.offer import Offer, ReplayedOffer, SignedOffer, check_addressed_untrusted
from protocol.wire.receipt import Settled
from protocol.wire.statement import Statement
from protocol.wire.task import (
    Accept,
    Ack,
    Cancel,
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
    TaskMessage,
)
from protocol.wire.transfer import Sender

from .changed import Changed
from .clock import now_us
from .groups import one_error
from .link import Links, Session
from .task_stream import PeerLost, TaskStream, expect
from .work import Task, Work

HELLO_WITHIN_S = 2.0
SETTLE_WITHIN_S = 10.0


class Provider:
    """Everything that happens when someone asks this peer for a picture."""

    def __init__(
        self,
        *,
        private_key: bytes,
        network: str,
        links: Links,
        work: Work,
        limits: Limits,
        allow: frozenset[str],
        providing: bool,
        precisions: frozenset[str],
        on_settled: Callable[[bytes, bytes], Awaitable[None]],
        journal: Callable[..., None],
    ) -> None:
        self._key = public_key_of(private_key)
        self._network = network
        self._links = links
        self._work = work
        self._limits = limits
        self._allow = allow
        self._providing = providing
        self._precisions = precisions
        self._on_settled = on_settled
        self._journal = journal
        self._own_peer = links.own.peer
        self._streams = Streams(self._own_peer)

    def statistics(self) -> dict[str, int]:
        return self._streams.statistics()

    def talks_with(self, peer: str) -> bool:
        """Whether a conversation with it is under way."""
        return self._streams.talks_with(peer)

    async def serve(self, stream: Any, peer: str) -> None:
        """One task stream that `peer` opened; RemoteProtocolError where it says what it may not."""
        number = self._streams.opened(peer, now_us())
        if number is None:
            await trio.aclose_forcefully(stream)
            return
        talk = TaskStream(stream, Conversation(Role.PROVIDER))
        try:
            await self._converse(talk, peer, number)
        except PeerLost:
            pass  # it may come back for the result, which is retained
        finally:
            self._streams.closed(peer, number)
            await talk.aclose()

    async def _converse(self, talk: TaskStream, peer: str, number: int) -> None:
        message = await self._first_word(talk, peer, number)
        heard_us = now_us()
        session = await self._links.wait_session(peer, HELLO_WITHIN_S)
        expect(message, OfferMessage, Resume)
        offset = 0
        if not self._streams.speaks(peer, number):
            if isinstance(message, OfferMessage):
                sentence = "This peer holds as many conversations as it can."
                await self._refuse(talk, session, heard_us, "busy", sentence)
            return
        if isinstance(message, OfferMessage):
            task = await self._offered(talk, session, message, heard_us)
        else:
            assert isinstance(message, Resume)
            task = await self._resumed(talk, session, message, heard_us)
            offset = message.offset
        if task is not None:
            await self._follow(talk, session, task, offset)

    async def _first_word(self, talk: TaskStream, peer: str, number: int) -> TaskMessage:
        """Of a stream that may have been opened ahead of its use; PeerLost when its time is up."""
        while (left_us := self._streams.closes_us(peer, number) - now_us()) > 0:
            with trio.move_on_after(left_us / 1e6):
                return await talk.receive()
        raise PeerLost("nothing was asked in time")

    async def _refuse(
        self, talk: TaskStream, session: Session, heard_us: int, code: str, sentence: str
    ) -> None:
        state = self._links.state_for(session.peer)
        await talk.send(Refuse(code, sentence[:256], state, session.clock_us(heard_us), session.clock_us()))
        self._journal("task_refused", peer=session.peer, code=code)

    async def _offered(
        self, talk: TaskStream, session: Session, message: OfferMessage, heard_us: int
    ) -> Task | None:
        refuse = partial(self._refuse, talk, session, heard_us)
        try:
            signed = SignedOffer.from_untrusted(message.envelope, network=self._network)
            check_addressed_untrusted(
                signed,
                provider=self._key,
                boot_id=self._links.boot_id,
                stream_peer=session.peer,
                now_us=session.clock_us(),
            )
        except UnknownCriticalField as exc:
            await refuse("unknown_field", f"{exc}.")
            return None
        except ReplayedOffer as exc:
            await refuse("replayed", f"{exc}.")
            return None
        offer, statement = signed.offer, signed.offer.statement
        refusal = (
            self._cannot(session.peer, statement)
            or self._too_dear(session.peer, offer)
            or await self._cannot_draw(statement)
        )
        if refusal is not None:
            await refuse(*refusal)
            return None
        due_us = None if offer.due_us is None else now_us() + offer.due_us - session.clock_us()
        task = self._work.offer(session.peer, offer, heard_us, due_us)
        if isinstance(task, Refused):
            await refuse("busy" if task.code == "busy" else "replayed", task.sentence)
            return None
        await self._accept(talk, session, task, heard_us)
        return task

    def _cannot(self, peer: str, statement: Statement) -> tuple[str, str] | None:
        if not self._providing and peer != self._own_peer:
            return "not_providing", "This peer does not render for others."
        if self._allow and peer not in self._allow and peer != self._own_peer:
            return "not_allowed", "This peer renders for named peers only."
        if statement.model not in self._work.models:
            return "model_unknown", "This peer does not have that model."
        if (adapter := self._work.lacks(statement)) is not None:
            return (
                "unsupported",
                f"This peer does not have the adapter {adapter.hex()[:8]} for that model.",
            )
        if statement.precision not in self._precisions:
            offered = ", ".join(sorted(self._precisions))
            return "unsupported", f"This peer computes in {offered}, not in {statement.precision}."
        limits = self._limits
        if statement.pixels > limits.pixels:
            return "too_large", f"This peer draws {limits.pixels} pixels at most."
        if statement.steps > limits.steps:
            return "too_large", f"This peer does {limits.steps} steps at most."
        if max(len(statement.prompt.encode()), len(statement.negative.encode())) > limits.prompt_bytes:
            return "too_large", f"This peer takes prompts of {limits.prompt_bytes} bytes at most."
        return None

    def _too_dear(self, peer: str, offer: Offer) -> tuple[str, str] | None:
        price, cap = self._work.quote_millionths(peer, offer.statement), offer.price_cap_millionths
        if cap is None or price <= cap:
            return None
        return (
            "price",
            f"This picture costs {shown_credits(price)} here; {shown_credits(cap)} were offered at most.",
        )

    async def _cannot_draw(self, statement: Statement) -> tuple[str, str] | None:
        """What the model itself cannot do, known without loading it."""
        model = self._work.models[statement.model]
        failed = model.why_not(statement)
        if failed is None and not model.surely_reads(statement):
            failed = await trio.to_thread.run_sync(model.why_not_read, statement)
        if failed is None:
            return None
        return "too_large" if failed.code == "prompt_too_long" else "unsupported", failed.sentence

    async def _resumed(
        self, talk: TaskStream, session: Session, message: Resume, heard_us: int
    ) -> Task | None:
        task = self._work.task(message.attempt)
        known = task is not None and task.requester == session.peer and not task.cancelled
        if task is None or not known or (task.rendered and message.offset > len(task.rendered.file)):
            clock = session.clock_us
            sentence = "No such result is kept here."
            await talk.send(
                Refuse("unknown_attempt", sentence, self._live_state(session.peer), clock(heard_us), clock())
            )
            return None
        await self._accept(talk, session, task, heard_us)
        return task

    async def _accept(self, talk: TaskStream, session: Session, task: Task, heard_us: int) -> None:
        await talk.send(
            Accept(
                wait_us=self._work.wait_us(task),
                load_us=task.load_us,
                step_us=task.step_us,
                state=self._live_state(session.peer),
                heard_us=session.clock_us(heard_us),
                sent_us=session.clock_us(),
            )
        )

    def _live_state(self, peer: str) -> LiveState:
        return self._links.state_for(peer) or self._work.live_state(
            peer
        )  # to itself, though it does not provide

    async def _follow(self, talk: TaskStream, session: Session, task: Task, offset: int) -> None:
        """Tells the requester how its task goes, to the end; hears it at the same time."""
        acks: list[Sender] = []
        heard = Changed()
        settled = trio.Event()

        async def hear() -> None:
            while not settled.is_set():
                message = await talk.receive()
                if isinstance(message, Cancel):
                    self._work.cancel(task)
                elif isinstance(message, Ack) and acks:
                    acks[0].on_ack(message.offset, now_us())
                    heard.notify()
                elif isinstance(message, SettledMessage):
                    await self._settle(task, message)
                    settled.set()
                    heard.notify()

        task.followers, task.dropped_at_us = task.followers + 1, None
        try:
            with one_error(RemoteProtocolError, PeerLost):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(hear)
                    await self._tell(talk, session, task)
                    left_us = None
                    if task.rendered is not None and not task.cancelled:
                        left_us = await self._send_result(talk, session, task, offset, acks, heard)
                    if task.failed is not None:
                        await talk.send(Failed(*task.failed, session.clock_us()))
                    else:
                        while task.receipt is None:
                            await task.changed.wait()
                        receipt = task.receipt.envelope.to_bytes()
                        left_us = None if left_us is None else session.clock_us(left_us)
                        await talk.send(ReceiptMessage(receipt, session.clock_us(), left_us))
                        while acks and not acks[0].done and not settled.is_set():
                            await self._wait_ack(heard)
                        with trio.move_on_after(SETTLE_WITHIN_S):
                            await settled.wait()
                    nursery.cancel_scope.cancel()
        finally:
            task.followers -= 1
            if not task.followers:
                task.dropped_at_us = now_us()

    async def _tell(self, talk: TaskStream, session: Session, task: Task) -> None:
        """LOADING until it starts, then PROGRESS with the latest preview, until there is a result or an end."""
        started, steps, previews = False, -1, 0
        while task.rendered is None and not task.over:
            if not started and task.started:
                started = True
                await talk.send(Start(task.step_us, session.clock_us()))
            elif not started:
                await talk.send(Loading(task.phase, session.clock_us()))
            else:
                preview = task.preview if task.previews != previews else None
                previews, steps = task.previews, task.steps_done
                await talk.send(Progress(steps, preview, session.clock_us()))
            if task.rendered is not None or task.over or (task.started and not started):
                continue
            if started and (task.steps_done != steps or task.previews != previews):
                continue
            with trio.move_on_after(HEARTBEAT_US / 1e6):
                await task.changed.wait()

    async def _send_result(
        self,
        talk: TaskStream,
        session: Session,
        task: Task,
        offset: int,
        acks: list[Sender],
        heard: Changed,
    ) -> int:
        """Up to its last byte; when RESULT left this machine."""
        rendered = task.rendered
        assert rendered is not None
        spans = tuple((name, max(0, start - task.heard_us), us) for name, start, us in task.spans)
        left_us = await talk.send(
            Result(
                codec=task.statement.codec,
                width=rendered.width,
                height=rendered.height,
                file_bytes=len(rendered.file),
                file=hashlib.sha256(rendered.file).digest(),
                spans=spans,
                sent_us=session.clock_us(),
            )
        )
        min_rtt_us = self._links.min_rtt_us(session.peer)
        sender = Sender(len(rendered.file), offset=offset, min_rtt_us=min_rtt_us, now_us=now_us())
        acks.append(sender)
        while offset < len(rendered.file):
            piece = sender.next_chunk(now_us())
            if piece is None:
                await self._wait_ack(heard)
                continue
            start, size = piece
            offset = start + size
            await talk.send(Chunk(start, rendered.file[start:offset]))
        return left_us

    async def _wait_ack(self, heard: Changed) -> None:
        with trio.move_on_after(ACK_WITHIN_US / 1e6) as quiet:
            await heard.wait()
        if quiet.cancelled_caught:  # `hear` has been reading since before an ack was owed
            raise PeerLost("no acknowledgement came in time")

    async def _settle(self, task: Task, message: SettledMessage) -> None:
        settled, envelope = Settled.from_untrusted(message.envelope, network=self._network)
        if envelope.signer != task.requester or settled.attempt != task.attempt:
            raise RemoteProtocolError("this SETTLED is for something else")
        if task.receipt is None or settled.receipt != task.receipt.envelope.hash:
            raise RemoteProtocolError("this SETTLED is for another receipt")
        await self._on_settled(task.attempt, envelope.to_bytes())
