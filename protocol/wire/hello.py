"""The link stream: HELLO once from each side, then pings whose pongs carry live state, and STATE for who watches it.

(README section 6.)

Times are microseconds of the sender's monotonic clock since an epoch that it draws at random for every connection.
"""

from dataclasses import dataclass, replace
from typing import Self

from ..errors import MalformedMessage
from .canonical import Value
from .fields import U32, Fields, plain

PROTOCOL = "/nearlight/link/1"
VERSION = 1
MAX_LINK_MESSAGE_BYTES = 16 * 1024
BOOT_ID_BYTES = 16
MODEL_ID_BYTES = 32
MAX_RESIDENT = 16
MAX_NETWORK_BYTES = 64
MAX_WATCH_US = 60_000_000
MAX_US = 10**15  # 31 years: a duration or a clock reading beyond it is an error


@dataclass(frozen=True)
class Hello:
    """Who is at the other end of this connection, this time."""

    network: str
    versions: tuple[int, ...]
    boot_id: bytes  # random at each start of the process; offers name it
    sent_us: int
    features: tuple[str, ...] = ()
    limits: tuple[tuple[str, int], ...] = ()  # what this peer will not exceed: name, most
    agent: str = ""

    def to_value(self) -> Value:
        return [
            "hello",
            {
                "network": self.network,
                "versions": list(self.versions),
                "boot_id": self.boot_id,
                "sent_us": self.sent_us,
                "features": list(self.features),
                "limits": dict(self.limits),
                "~agent": self.agent,
            },
        ]

    @classmethod
    def from_untrusted(cls, body: Value) -> Self:
        fields = Fields(body, "hello")
        limits = fields.value("limits")
        if not isinstance(limits, dict) or len(limits) > 32:
            raise MalformedMessage("hello: 'limits' must be a map of at most 32")
        hello = cls(
            network=fields.text("network", at_most_bytes=MAX_NETWORK_BYTES),
            versions=tuple(_integers(fields.items("versions", at_least=1, at_most=16))),
            boot_id=fields.data("boot_id", exactly=BOOT_ID_BYTES),
            sent_us=fields.integer("sent_us", 0, MAX_US),
            features=tuple(_names(fields.items("features", at_most=32))),
            limits=tuple(zip(_names(list(limits)), _integers(list(limits.values())), strict=True)),
            agent=plain(fields.maybe("~agent", lambda key: fields.text(key, at_most_bytes=256)) or ""),
        )
        fields.end()
        return hello


@dataclass(frozen=True)
class LiveState:
    """What changes from second to second on a provider; told to those who are about to use it."""

    wait_us: int  # until a task offered now would start
    running: int
    queued: int
    free_memory_mib: int | None
    resident: tuple[bytes, ...]  # model ids whose weights are loaded, or being loaded

    def to_value(self) -> Value:
        return {
            "wait_us": self.wait_us,
            "running": self.running,
            "queued": self.queued,
            "free_memory_mib": self.free_memory_mib,
            "resident": list(self.resident),
        }

    @classmethod
    def from_untrusted(cls, value: Value) -> Self:
        fields = Fields(value, "state")
        state = cls(
            wait_us=fields.integer("wait_us", 0, MAX_US),
            running=fields.integer("running", 0, U32),
            queued=fields.integer("queued", 0, U32),
            free_memory_mib=fields.maybe("free_memory_mib", lambda key: fields.integer(key, 0, U32)),
            resident=tuple(model_ids(fields.items("resident", at_most=MAX_RESIDENT))),
        )
        fields.end()
        return state


@dataclass(frozen=True)
class Ping:
    number: int
    sent_us: int
    want_state: bool
    watch: bool = False  # it wants STATE, unasked, from now on

    def to_value(self) -> Value:
        return [
            "ping",
            {
                "number": self.number,
                "sent_us": self.sent_us,
                "want_state": self.want_state,
                "watch": self.watch,
            },
        ]


@dataclass(frozen=True)
class Pong:
    """Answers the ping of that number.  With its two times and the asker's own: round trip and clock offset."""

    number: int
    heard_us: int
    sent_us: int
    state: LiveState | None
    watch_us: int = 0  # for so long STATE comes unasked

    def to_value(self) -> Value:
        return [
            "pong",
            {
                "number": self.number,
                "heard_us": self.heard_us,
                "sent_us": self.sent_us,
                "state": self.state.to_value() if self.state else None,
                "watch_us": self.watch_us,
            },
        ]


@dataclass(frozen=True)
class StateMessage:
    """Live state, told to who watches."""

    state: LiveState

    def to_value(self) -> Value:
        return ["state", self.state.to_value()]


@dataclass(frozen=True)
class WaitMessage:
    """Of live state that was told before, what is no longer so: a third of the bytes of the whole of it."""

    wait_us: int
    running: int
    queued: int

    @classmethod
    def of(cls, state: LiveState) -> Self:
        return cls(state.wait_us, state.running, state.queued)

    def to_value(self) -> Value:
        return ["wait", {"wait_us": self.wait_us, "running": self.running, "queued": self.queued}]

    def changed(self, state: LiveState) -> LiveState:
        """What `state` is now."""
        return replace(state, wait_us=self.wait_us, running=self.running, queued=self.queued)


LinkMessage = Hello | Ping | Pong | StateMessage | WaitMessage


def link_message_untrusted(value: Value) -> LinkMessage:
    """One message of the link stream."""
    match value:
        case ["hello", body]:
            return Hello.from_untrusted(body)
        case ["ping", body]:
            fields = Fields(body, "ping")
            ping = Ping(
                fields.integer("number", 0, U32),
                fields.integer("sent_us", 0, MAX_US),
                fields.flag("want_state"),
                fields.flag("watch"),
            )
            fields.end()
            return ping
        case ["pong", body]:
            fields = Fields(body, "pong")
            pong = Pong(
                number=fields.integer("number", 0, U32),
                heard_us=fields.integer("heard_us", 0, MAX_US),
                sent_us=fields.integer("sent_us", 0, MAX_US),
                state=fields.maybe("state", lambda key: LiveState.from_untrusted(fields.value(key))),
                watch_us=fields.integer("watch_us", 0, MAX_WATCH_US),
            )
            fields.end()
            return pong
        case ["state", body]:
            return StateMessage(LiveState.from_untrusted(body))
        case ["wait", body]:
            fields = Fields(body, "wait")
            wait = WaitMessage(
                wait_us=fields.integer("wait_us", 0, MAX_US),
                running=fields.integer("running", 0, U32),
                queued=fields.integer("queued", 0, U32),
            )
            fields.end()
            return wait
    raise MalformedMessage("not a link message")


def model_ids(items: list[Value]) -> list[bytes]:
    for item in items:
        if not isinstance(item, bytes) or len(item) != MODEL_ID_BYTES:
            raise MalformedMessage("not a model id")
    return items  # type: ignore[return-value]


def _integers(items: list[Value]) -> list[int]:
    for item in items:
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            raise MalformedMessage("not a count")
    return items  # type: ignore[return-value]


def _names(items: list[Value]) -> list[str]:
    for item in items:
        if (
            not isinstance(item, str)
            or not 0 < len(item) <= 64
            or not item.isascii()
            or not item.isprintable()
        ):
            raise MalformedMessage("not a name")
    return items  # type: ignore[return-value]
