"""Bulk that starves nobody: an acknowledged window, grown by what arrives, shrunk by what queues.  (README section 9.4.)

Bytes go in order over a stream that loses nothing, so only the amount in flight is decided here.  After BBR (Cardwell
et al., 2017): a windowed maximum of the delivery rate times a windowed minimum of the round-trip time is what the path
holds; more only queues.  A round is the time in which everything that was in flight is acknowledged.
"""

import hashlib
from collections import deque
from typing import Any

from ..errors import RemoteProtocolError

CHUNK_BYTES = 65_400  # the most: a CHUNK frame with its header fits one 65,524-byte yamux payload
MIN_CHUNK_BYTES = 8_192  # half of it takes nearly as much work to send
CHUNK_US = 400  # of the path's time in one chunk: a small message waits for those that went just before
START_CHUNK_BYTES = 16_384  # while the rate is not known
PROBE_CHUNK_BYTES = 1_400  # one packet, which measures the path and not itself
CHUNKS_PER_ACK = 2
START_WINDOW_BYTES = 256 * 1024
MIN_WINDOW_BYTES = 64 * 1024  # 100 Mbit/s over 5 ms, of which a busy machine may be a part
MAX_WINDOW_BYTES = 32 * 1024 * 1024  # 1 Gbit/s x 256 ms
QUEUE_US = 5_000  # of added delay, and the window shrinks
MIN_ROUND_US = 5_000  # after start-up: in a shorter one, acknowledgements in a bunch look like a fast path
RATE_ROUNDS = 10  # the delivery rate is the best of so many rounds
FULL_ROUNDS = 3  # rounds in which the rate did not grow by a quarter: start-up is over
MIN_RTT_LIFETIME_US = 10_000_000  # then the queue is drained and the minimum measured again
VAIN_SHRINKS = 16  # in a row: so is it here, for a path that grew longer looks like a queue


class Sender:
    """One file's bytes from `offset`: which may be sent now.

    `min_rtt_us` is the path's round trip where pings have told it: a file's own first chunks queue behind each
    other, so their times show it late.  A lower one that is measured here replaces it.
    """

    def __init__(
        self, total_bytes: int, *, offset: int = 0, min_rtt_us: int | None = None, now_us: int
    ) -> None:
        if not 0 <= offset <= total_bytes:
            raise ValueError(f"offset {offset} of {total_bytes} bytes")
        self._total = total_bytes
        self._sent = self._acked = self._round_ends = self._round_began = offset
        self._round_began_us = now_us
        self._in_flight: deque[tuple[int, int]] = deque()  # end of chunk, when it was sent
        self._chunk = START_CHUNK_BYTES
        self._window = START_WINDOW_BYTES
        if min_rtt_us is not None and min_rtt_us < QUEUE_US:  # it would be a queue, and growing takes no time
            self._window = max(START_WINDOW_BYTES * min_rtt_us // QUEUE_US, MIN_WINDOW_BYTES)
        self._starting = True
        self._full_rounds = self._rounds = self._shrinks = self._vain_shrinks = 0
        self._best_rate = 0.0
        self._rates: deque[float] = deque(maxlen=RATE_ROUNDS)  # bytes per microsecond
        self._round_rtt_us: int | None = None  # the least of this round
        self._min_rtt_us = min_rtt_us
        self._min_rtt_at_us = now_us
        self._draining_rounds = 0

    def next_chunk(self, now_us: int) -> tuple[int, int] | None:
        """(offset, bytes) to send now, or None: wait for an acknowledgement."""
        window, chunk = (0, PROBE_CHUNK_BYTES) if self._draining_rounds else (self._window, self._chunk)
        size = min(chunk, self._total - self._sent)
        # The receiver may keep all but the last of CHUNKS_PER_ACK to itself: so many are sent whatever the window.
        full = self._sent - self._acked >= window and len(self._in_flight) >= CHUNKS_PER_ACK
        if full or not size:
            return None
        offset = self._sent
        self._sent += size
        self._in_flight.append((self._sent, now_us))
        return offset, size

    def on_ack(self, offset: int, now_us: int) -> None:
        """Every byte below `offset` arrived; RemoteProtocolError if that runs backwards or beyond what was sent."""
        if not self._acked <= offset <= self._sent:
            raise RemoteProtocolError(
                f"acknowledged {offset}, between {self._acked} and {self._sent} expected"
            )
        self._acked = offset
        sent_us = None
        while self._in_flight and self._in_flight[0][0] <= offset:
            _, sent_us = self._in_flight.popleft()
        if sent_us is None:
            return
        rtt_us = max(now_us - sent_us, 1)
        self._round_rtt_us = min(rtt_us, self._round_rtt_us or rtt_us)
        if not self._draining_rounds and rtt_us <= (self._min_rtt_us or rtt_us):
            self._min_rtt_us, self._min_rtt_at_us = rtt_us, now_us
        long_enough = self._starting or now_us - self._round_began_us >= MIN_ROUND_US
        if offset > self._round_ends and long_enough:
            self._end_round(now_us)

    def _end_round(self, now_us: int) -> None:
        assert self._round_rtt_us is not None
        assert self._min_rtt_us is not None
        elapsed_us = max(now_us - self._round_began_us, 1)
        self._rates.append((self._acked - self._round_began) / elapsed_us)
        self._rounds += 1
        if self._draining_rounds:
            self._drained_round(now_us)
        else:
            self._resize()
            if now_us - self._min_rtt_at_us > MIN_RTT_LIFETIME_US or self._vain_shrinks == VAIN_SHRINKS:
                self._vain_shrinks = 0
                self._draining_rounds = 2  # one until the old window has left, one that measures
        self._round_ends, self._round_began, self._round_began_us = self._sent, self._acked, now_us
        self._round_rtt_us = None

    def _drained_round(self, now_us: int) -> None:
        assert self._round_rtt_us is not None
        assert self._min_rtt_us is not None
        self._draining_rounds -= 1
        if not self._draining_rounds:
            if self._round_rtt_us > self._min_rtt_us + QUEUE_US:  # a longer path: what it holds is not known
                self._starting, self._best_rate, self._full_rounds = True, 0.0, 0
            self._min_rtt_us, self._min_rtt_at_us = self._round_rtt_us, now_us

    def _resize(self) -> None:
        assert self._round_rtt_us is not None
        assert self._min_rtt_us is not None
        rate = max(self._rates)
        self._chunk = min(max(int(rate * CHUNK_US), MIN_CHUNK_BYTES), CHUNK_BYTES)
        # A chunk is timed with those that are acknowledged with it, and they stay with the receiver: no queue.
        together_bytes = CHUNKS_PER_ACK * self._chunk
        path_bytes = int(rate * self._min_rtt_us)
        bound_us = self._min_rtt_us + QUEUE_US + int(together_bytes / rate)
        grown = rate >= self._best_rate * 1.25
        self._best_rate = max(self._best_rate, rate)
        self._full_rounds = 0 if grown else self._full_rounds + 1
        if self._round_rtt_us > bound_us:
            shrunk = 0 if self._starting else self._window * bound_us // self._round_rtt_us
            self._window = min(self._window, max(shrunk, path_bytes + together_bytes, MIN_WINDOW_BYTES))
            self._starting = False
            self._shrinks += 1
            self._vain_shrinks += 1
            return
        self._vain_shrinks = 0
        self._starting = self._starting and self._full_rounds < FULL_ROUNDS
        # Twice what the path holds, so that a rate that grows shows.  In start-up the rate lags by one doubling.
        most = (2 * path_bytes + together_bytes) * (2 if self._starting else 1)
        self._window = min(
            2 * self._window if self._starting else self._window * 9 // 8,
            max(most, MIN_WINDOW_BYTES),
            MAX_WINDOW_BYTES,
        )

    @property
    def done(self) -> bool:
        """Everything was sent and acknowledged."""
        return self._acked == self._total

    def statistics(self) -> dict[str, int]:
        return {
            "total_bytes": self._total,
            "sent_bytes": self._sent,
            "acked_bytes": self._acked,
            "window_bytes": self._window,
            "chunk_bytes": self._chunk,
            "min_rtt_us": self._min_rtt_us or 0,
            "rate_bytes_per_s": int(max(self._rates, default=0.0) * 1_000_000),
            "rounds": self._rounds,
            "shrinks": self._shrinks,
        }


class Receiver:
    """One file's bytes as they come in.  The caller keeps them; this says what is right and when to acknowledge."""

    def __init__(self, total_bytes: int, sha256: bytes, *, offset: int = 0, prefix_hash: Any = None) -> None:
        """`prefix_hash`: the hashlib SHA-256 of the first `offset` bytes, where the transfer is resumed; it is used up."""
        if not 0 <= offset <= total_bytes or (offset and prefix_hash is None):
            raise ValueError(f"cannot resume at {offset} of {total_bytes} bytes")
        self._total = total_bytes
        self._sha256 = sha256
        self._hash = hashlib.sha256() if prefix_hash is None else prefix_hash
        self._offset = offset
        self._unacked_chunks = 0

    @property
    def offset(self) -> int:
        """Bytes that arrived, from the start of the file."""
        return self._offset

    @property
    def complete(self) -> bool:
        return self._offset == self._total

    def on_chunk_untrusted(self, offset: int, data: bytes) -> None:
        """RemoteProtocolError unless `data` continues at `offset` and stays within the file and CHUNK_BYTES."""
        if offset != self._offset:
            raise RemoteProtocolError(f"a chunk at {offset}, {self._offset} is next")
        if not 0 < len(data) <= min(CHUNK_BYTES, self._total - offset):
            raise RemoteProtocolError(f"a chunk of {len(data)} bytes with {self._total - offset} left")
        self._hash.update(data)
        self._offset += len(data)
        self._unacked_chunks += 1

    def ack(self) -> int | None:
        """The offset to acknowledge now: after every second chunk and at the end."""
        if not self._unacked_chunks or (self._unacked_chunks < CHUNKS_PER_ACK and not self.complete):
            return None
        self._unacked_chunks = 0
        return self._offset

    def finish_untrusted(self) -> None:
        """RemoteProtocolError unless every byte arrived and their hash is the one announced."""
        if not self.complete:
            raise RemoteProtocolError(f"{self._offset} of {self._total} bytes arrived")
        if self._hash.digest() != self._sha256:
            raise RemoteProtocolError("the bytes are not those of the announced hash")

    def statistics(self) -> dict[str, int]:
        return {"total_bytes": self._total, "received_bytes": self._offset}
