"""What comes of an attempt: bytes, a receipt that is checked and kept, and what both show of the peer."""

import trio

from protocol.errors import RemoteProtocolError
from protocol.policy.speeds import applied_us, loaded_us, observed
from protocol.wire.receipt import Settled, SignedReceipt
from protocol.wire.task import Chunk, ReceiptMessage, Result
from protocol.wire.transfer import Receiver

from .asking import Attempt, Errand, Means
from .check import Expected
from .clock import now_us
from .link import Session
from .picture import Bundle, embed


class Delivery:
    """The picture of one attempt on its way, over as many connections as it takes."""

    def __init__(self, means: Means, errand: Errand, attempt: Attempt) -> None:
        self._means = means
        self._errand = errand
        self._attempt = attempt
        self._kept: bytes | None = None  # SETTLED of what is in the ledger
        self._expected = Expected(
            means.network,
            errand.statement,
            attempt.id,
            attempt.choice.peer,
            means.key,
            attempt.choice.price_millionths,
        )

    def on_result_untrusted(self, result: Result, session: Session, heard_remote_us: int, now: int) -> None:
        """`heard_remote_us`: when the peer heard the offer, on its clock of this connection.  RemoteProtocolError."""
        attempt = self._attempt
        if attempt.started_us is not None and attempt.ran_us is None:
            attempt.ran_us = now - attempt.started_us
        self._expected.check_announced_untrusted(result)
        if attempt.result is not None:
            if (result.file, result.file_bytes) != (attempt.result.file, attempt.result.file_bytes):
                raise RemoteProtocolError("it answers one attempt with two pictures")
            return
        attempt.result, attempt.receiver = result, Receiver(result.file_bytes, result.file)
        attempt.result_local_us = attempt.leg.spanned_us = session.to_local_us(result.sent_us)
        attempt.left_us = attempt.result_local_us
        began_us = session.to_local_us(heard_remote_us)
        for name, start_us, us in result.spans:
            at_us = began_us + start_us
            attempt.leg.add(name, at_us, at_us + us, observer=attempt.choice.peer)

    def on_chunk_untrusted(self, chunk: Chunk, now: int) -> int | None:
        """The offset to acknowledge, if any.  RemoteProtocolError."""
        attempt = self._attempt
        assert attempt.receiver is not None  # CHUNK follows RESULT: the conversation sees to it
        attempt.receiver.on_chunk_untrusted(chunk.offset, chunk.data)
        attempt.data += chunk.data
        attempt.last_byte_us = now
        return attempt.receiver.ack()

    def on_left(self, message: ReceiptMessage) -> None:
        """What RESULT waited for the provider's machine after it was made, by the provider's word."""
        attempt = self._attempt
        result, left_us = attempt.result, message.result_left_us
        if result is not None and left_us is not None and result.sent_us < left_us <= message.sent_us:
            attempt.left_us += left_us - result.sent_us
            attempt.leg.add("leave", attempt.result_local_us, attempt.left_us, observer=attempt.choice.peer)

    async def finish_untrusted(self, envelope: bytes, read_us: int) -> bytes:
        """The receipt, read at `read_us`, is of the picture that was asked for, which is then handed over.

        What is to be said of it: SETTLED.  RemoteProtocolError.
        """
        attempt, leg, own = self._attempt, self._attempt.leg, self._means.peer
        if attempt.receiver is None or attempt.result is None:
            raise RemoteProtocolError("a receipt without a picture")
        attempt.receiver.finish_untrusted()
        file = bytes(attempt.data)
        signed = await trio.to_thread.run_sync(self._expected.receipt_untrusted, envelope, file)
        attempt.outcome, attempt.sentence = "done", None
        checked_us = now_us()
        leg.add("check", read_us, checked_us, observer=own)
        settled = await self._keep(signed)
        saved_us = now_us()
        leg.add("save", checked_us, saved_us, observer=own)
        bundle = Bundle(self._means.network, signed.envelope.to_bytes())
        whole = await trio.to_thread.run_sync(embed, file, bundle.to_bytes())
        done_us = leg.spanned_us = now_us()
        leg.add("embed", saved_us, done_us, observer=own)
        self._errand.on_drawn(attempt, whole, done_us)
        return settled

    async def cancelled_untrusted(self, envelope: bytes) -> bytes | None:
        """The receipt is of what was done before CANCEL was heard: that is owed.

        What is to be said of it: SETTLED; None: nothing, for not all of it came.  RemoteProtocolError.
        """
        file = bytes(self._attempt.data)
        signed = await trio.to_thread.run_sync(self._expected.cancelled_untrusted, envelope, file)
        return None if signed is None else await self._keep(signed)

    async def _keep(self, signed: SignedReceipt) -> bytes:
        """Into the ledger, once, with what is said of it."""
        if self._kept is None:
            attempt, means = self._attempt, self._means
            attempt.receipt = signed
            settled = Settled(attempt.id, signed.envelope.hash, accepted=True)
            envelope = settled.sign(network=means.network, private_key=means.private_key).to_bytes()
            await means.keep(attempt, envelope, self._errand.job_id)
            self._kept = envelope
        return self._kept

    def learn(self, *, resumed: bool) -> None:
        """What the whole picture showed of the peer's speed; of the line's, where it did not break meanwhile."""
        attempt, directory, statement = self._attempt, self._means.directory, self._errand.statement
        result, speeds, peer = attempt.result, directory.speeds, attempt.choice.peer
        assert result is not None
        directory.on_drawn(peer, now_us())
        if peer == self._means.peer:
            return
        if attempt.ran_us is not None:
            step_us, fixed_us = observed(result.spans, statement.steps, attempt.ran_us)
            directory.on_render(peer, statement, step_us=step_us, fixed_us=fixed_us)
            speeds.on_adapters(peer, statement, applied_us(result.spans))
            if load_us := loaded_us(result.spans, self._seen_loading_us):
                speeds.on_load(peer, statement.model, load_us)
        moved_us = attempt.last_byte_us - attempt.result_local_us
        rtt = directory.rtt(peer)
        if rtt is not None and moved_us > 0 and not resumed:
            speeds.on_transfer(peer, result.file_bytes, moved_us, rtt_us=rtt.min_us)

    @property
    def _seen_loading_us(self) -> int:
        attempt = self._attempt
        if attempt.loads_after_us is None or attempt.accepted_us is None or attempt.started_us is None:
            return 0
        return max(0, attempt.started_us - attempt.accepted_us - attempt.loads_after_us)
