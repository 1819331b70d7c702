"""Carries one task conversation over a byte stream: all the I/O, none of the rules."""

from collections import deque

import trio

from protocol.errors import RemoteProtocolError
from protocol.wire.canonical import Value
from protocol.wire.conversation import Conversation
from protocol.wire.frames import FrameReader, pack
from protocol.wire.task import (
    MAX_TASK_MESSAGE_BYTES,
    Accept,
    Cancel,
    Progress,
    Result,
    Start,
    TaskMessage,
    task_message_untrusted,
    to_value,
)

from .clock import now_us
from .network import Stamped, StreamLost

READ_BYTES = 65_524
CLOSE_WITHIN_S = 1.0


class PeerLost(Exception):
    """The peer went quiet past its deadline, or hung up.  It is not known what it did with the last thing we sent."""


class HungUp(PeerLost):
    """The stream ended, by the peer's will or with its connection."""


class TaskStream:
    """One side of a conversation; any number of tasks may send, one receives.

    `heard_us` is when the last message came to this machine: it may have waited here before `receive` returned it.
    """

    def __init__(self, stream: trio.abc.Stream, conversation: Conversation) -> None:
        self._stream = stream
        self.conversation = conversation
        self._reader = FrameReader(at_most_bytes=MAX_TASK_MESSAGE_BYTES)
        self._unread: deque[tuple[Value, int]] = deque()  # and when it came
        self.heard_us = 0
        self._sending = trio.Lock()

    async def send(self, message: TaskMessage) -> int:
        """When it was handed to this machine's system, us.

        LocalProtocolError if it may not be said now; HungUp if the stream is gone.
        """
        async with self._sending:
            return await self._send(message)

    async def _send(self, message: TaskMessage) -> int:
        self.conversation.sent(message.KIND, now_us=now_us())
        try:
            await self._stream.send_all(pack(to_value(message)))
            return self._stream.left_us if isinstance(self._stream, Stamped) else now_us()
        except (trio.BrokenResourceError, trio.ClosedResourceError, StreamLost) as exc:
            raise HungUp("the connection was lost") from exc

    async def receive(self) -> TaskMessage:
        """The peer's next message, if the conversation allows it; PeerLost or RemoteProtocolError."""
        while not self._unread:
            data = await self._read()
            if not data:
                self._reader.close()
                raise HungUp("the peer hung up")
            heard_us = self._stream.heard_us if isinstance(self._stream, Stamped) else now_us()
            self._unread.extend((value, heard_us) for value in self._reader.feed_untrusted(data))
        value, self.heard_us = self._unread.popleft()
        message, now = task_message_untrusted(value), now_us()
        self.conversation.received(message.KIND, now_us=now)
        if isinstance(message, Accept):
            self.conversation.expect_start_within(message.wait_us + message.load_us, now_us=now)
        elif isinstance(message, Start):
            self.conversation.expect_steps_of(message.step_us, now_us=now)
        elif isinstance(message, Progress):
            self.conversation.on_step(message.step, now_us=now)
        elif isinstance(message, Result):
            self.conversation.expect_bytes(message.file_bytes, now_us=now)
        return message

    async def _read(self) -> bytes:
        deadline = self.conversation.deadline
        within_s = float("inf") if deadline is None else max(0, deadline.at_us - now_us()) / 1e6
        with trio.move_on_after(within_s):
            try:
                return bytes(await self._stream.receive_some(READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError, StreamLost) as exc:
                raise HungUp("the connection was lost") from exc
        assert deadline is not None
        raise PeerLost(f"nothing was heard in time while waiting for {deadline.waiting_for}")

    async def cancel(self, sent_us: int) -> bool:
        """Asks the provider to stop, if that still means anything when its turn to be sent comes."""
        async with self._sending:
            if not self.conversation.may_send(Cancel.KIND):
                return False
            await self._send(Cancel(sent_us))
            return True

    async def aclose(self) -> None:
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_WITHIN_S, shield=True):
            await self._stream.aclose()


def expect(message: TaskMessage, *kinds: type) -> None:
    """RemoteProtocolError unless the message is of one of these kinds."""
    if not isinstance(message, kinds):
        raise RemoteProtocolError(f"{message.KIND} was not due")
