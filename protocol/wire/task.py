"""The messages of a task stream.  (README section 9.)

Every message but CHUNK and ACK carries `sent_us`, and the first answer of the provider carries `heard_us` too: both on
the sender's clock of this connection (see hello.py), so that four timestamps give an offset of known width.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from ..errors import MalformedMessage
from .canonical import Value
from .fields import Fields, plain
from .hello import MAX_US, LiveState
from .offer import ATTEMPT_BYTES, MAX_OFFER_BYTES
from .receipt import HASH_BYTES, MAX_FILE_BYTES, MAX_RECEIPT_BYTES
from .statement import CODECS, MAX_SIDE_PX, MAX_STEPS
from .transfer import CHUNK_BYTES

PROTOCOL = "/nearlight/task/1"
MAX_TASK_MESSAGE_BYTES = 128 * 1024
MAX_SENTENCE_BYTES = 512
MAX_PREVIEW_SIDE_PX = 64
MAX_STEP_US = 600_000_000  # START may not put the progress deadline off for ever
MAX_SPANS = MAX_STEPS + 32

REFUSALS = frozenset(
    {
        "busy",  # cannot start within max_wait
        "not_providing",
        "not_allowed",
        "model_unknown",
        "unsupported",  # parameters this model or device cannot do
        "too_large",  # beyond the limits in the advert
        "price",
        "replayed",  # wrong provider, requester, boot or expiry
        "unknown_field",  # the offer asks for something newer than this peer
        "unknown_attempt",  # RESUME of something not retained here
    }
)
FAILURES = frozenset(
    {
        "renderer_died",
        "out_of_memory",
        "unsupported",
        "prompt_too_long",
        "black_picture",
        "load_failed",
        "shutting_down",
        "internal",
        "late",  # only where the offer stated `~due_us`
    }
)
FAULTS = frozenset({"provider", "requester", "nobody"})
PHASES = frozenset({"queue", "weights", "adapter"})


@dataclass(frozen=True)
class OfferMessage:
    """Opens the stream: the signed offer."""

    KIND: ClassVar[str] = "offer"
    envelope: bytes
    sent_us: int

    def body(self) -> Value:
        return {"envelope": self.envelope, "sent_us": self.sent_us}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.data("envelope", at_most=MAX_OFFER_BYTES), _clock(fields, "sent_us"))


@dataclass(frozen=True)
class Resume:
    """Opens the stream instead: go on with this attempt, its output from byte `offset`."""

    KIND: ClassVar[str] = "resume"
    attempt: bytes
    offset: int
    sent_us: int

    def body(self) -> Value:
        return {"attempt": self.attempt, "offset": self.offset, "sent_us": self.sent_us}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            fields.data("attempt", exactly=ATTEMPT_BYTES),
            fields.integer("offset", 0, MAX_FILE_BYTES),
            _clock(fields, "sent_us"),
        )


@dataclass(frozen=True)
class Accept:
    """The task is queued; what the provider expects of it."""

    KIND: ClassVar[str] = "accept"
    wait_us: int  # until it starts
    load_us: int  # of that, loading weights; 0 when resident
    step_us: int | None  # predicted; None: never measured
    state: LiveState
    heard_us: int
    sent_us: int

    def body(self) -> Value:
        return {
            "wait_us": self.wait_us,
            "load_us": self.load_us,
            "step_us": self.step_us,
            "state": self.state.to_value(),
            "heard_us": self.heard_us,
            "sent_us": self.sent_us,
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            wait_us=_clock(fields, "wait_us"),
            load_us=_clock(fields, "load_us"),
            step_us=fields.maybe("step_us", lambda key: _clock(fields, key)),
            state=LiveState.from_untrusted(fields.value("state")),
            heard_us=_clock(fields, "heard_us"),
            sent_us=_clock(fields, "sent_us"),
        )


@dataclass(frozen=True)
class Refuse:
    KIND: ClassVar[str] = "refuse"
    code: str
    sentence: str
    state: LiveState | None
    heard_us: int
    sent_us: int

    def body(self) -> Value:
        return {
            "code": self.code,
            "sentence": self.sentence,
            "state": self.state.to_value() if self.state else None,
            "heard_us": self.heard_us,
            "sent_us": self.sent_us,
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            code=fields.choice("code", REFUSALS),
            sentence=_sentence(fields),
            state=fields.maybe("state", lambda key: LiveState.from_untrusted(fields.value(key))),
            heard_us=_clock(fields, "heard_us"),
            sent_us=_clock(fields, "sent_us"),
        )


@dataclass(frozen=True)
class Loading:
    """Still here: waiting in the queue or loading.  Sent at least every HEARTBEAT_US until START."""

    KIND: ClassVar[str] = "loading"
    phase: str
    sent_us: int

    def body(self) -> Value:
        return {"phase": self.phase, "sent_us": self.sent_us}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.choice("phase", PHASES), _clock(fields, "sent_us"))


@dataclass(frozen=True)
class Start:
    """The renderer has begun.  `step_us` predicts one step and sets the progress deadline."""

    KIND: ClassVar[str] = "start"
    step_us: int
    sent_us: int

    def body(self) -> Value:
        return {"step_us": self.step_us, "sent_us": self.sent_us}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.integer("step_us", 0, MAX_STEP_US), _clock(fields, "sent_us"))


@dataclass(frozen=True)
class Preview:
    """Raw RGB8, row by row, of at most 64x64: nothing to decode."""

    width: int
    height: int
    rgb: bytes

    def to_value(self) -> Value:
        return {"width": self.width, "height": self.height, "rgb": self.rgb}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        preview = cls(
            width=fields.integer("width", 1, MAX_PREVIEW_SIDE_PX),
            height=fields.integer("height", 1, MAX_PREVIEW_SIDE_PX),
            rgb=fields.data("rgb", at_most=3 * MAX_PREVIEW_SIDE_PX**2),
        )
        if len(preview.rgb) != 3 * preview.width * preview.height:
            raise MalformedMessage("preview: not width x height RGB pixels")
        fields.end()
        return preview


@dataclass(frozen=True)
class Progress:
    """`step` steps are done.  Also the heartbeat of a long step: then `step` has not grown and there is no preview."""

    KIND: ClassVar[str] = "progress"
    step: int
    preview: Preview | None
    sent_us: int

    def body(self) -> Value:
        return {
            "step": self.step,
            "preview": self.preview.to_value() if self.preview else None,
            "sent_us": self.sent_us,
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            step=fields.integer("step", 0, MAX_STEPS),
            preview=fields.maybe("preview", lambda key: Preview.from_fields(fields.map(key))),
            sent_us=_clock(fields, "sent_us"),
        )


@dataclass(frozen=True)
class Result:
    """The picture is ready; its bytes follow in CHUNKs from the offset asked (0 for an offer).

    `spans` are (name, start, duration) in microseconds, starts counted from `heard_us` of ACCEPT: what the provider
    measured on its own clock.
    """

    KIND: ClassVar[str] = "result"
    codec: str
    width: int
    height: int
    file_bytes: int
    file: bytes  # SHA-256
    spans: tuple[tuple[str, int, int], ...]
    sent_us: int

    def body(self) -> Value:
        return {
            "codec": self.codec,
            "width": self.width,
            "height": self.height,
            "file_bytes": self.file_bytes,
            "file": self.file,
            "spans": [list(span) for span in self.spans],
            "sent_us": self.sent_us,
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            codec=fields.choice("codec", CODECS),
            width=fields.integer("width", 1, MAX_SIDE_PX),
            height=fields.integer("height", 1, MAX_SIDE_PX),
            file_bytes=fields.integer("file_bytes", 1, MAX_FILE_BYTES),
            file=fields.data("file", exactly=HASH_BYTES),
            spans=tuple(_span(item) for item in fields.items("spans", at_most=MAX_SPANS)),
            sent_us=_clock(fields, "sent_us"),
        )


@dataclass(frozen=True)
class Chunk:
    KIND: ClassVar[str] = "chunk"
    offset: int
    data: bytes

    def body(self) -> Value:
        return {"offset": self.offset, "data": self.data}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.integer("offset", 0, MAX_FILE_BYTES), fields.data("data", at_most=CHUNK_BYTES))


@dataclass(frozen=True)
class Ack:
    """Every byte below `offset` has arrived."""

    KIND: ClassVar[str] = "ack"
    offset: int

    def body(self) -> Value:
        return {"offset": self.offset}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.integer("offset", 0, MAX_FILE_BYTES))


@dataclass(frozen=True)
class ReceiptMessage:
    """Ends the work, done or cancelled: the signed receipt."""

    KIND: ClassVar[str] = "receipt"
    envelope: bytes
    sent_us: int
    result_left_us: int | None = None  # when RESULT was handed to the provider's system

    def body(self) -> Value:
        return {
            "envelope": self.envelope,
            "sent_us": self.sent_us,
            "~result_left_us": self.result_left_us,
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            envelope=fields.data("envelope", at_most=MAX_RECEIPT_BYTES),
            sent_us=_clock(fields, "sent_us"),
            result_left_us=fields.maybe("~result_left_us", lambda key: _clock(fields, key)),
        )


@dataclass(frozen=True)
class Failed:
    """Ends the work without a picture."""

    KIND: ClassVar[str] = "failed"
    code: str
    fault: str
    sentence: str
    sent_us: int

    def body(self) -> Value:
        return {"code": self.code, "fault": self.fault, "sentence": self.sentence, "sent_us": self.sent_us}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            code=fields.choice("code", FAILURES),
            fault=fields.choice("fault", FAULTS),
            sentence=_sentence(fields),
            sent_us=_clock(fields, "sent_us"),
        )


@dataclass(frozen=True)
class Cancel:
    """Stop at the next step boundary and send the receipt of what was done."""

    KIND: ClassVar[str] = "cancel"
    sent_us: int

    def body(self) -> Value:
        return {"sent_us": self.sent_us}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_clock(fields, "sent_us"))


@dataclass(frozen=True)
class SettledMessage:
    """The requester's last word: its signed SETTLED."""

    KIND: ClassVar[str] = "settled"
    envelope: bytes
    sent_us: int

    def body(self) -> Value:
        return {"envelope": self.envelope, "sent_us": self.sent_us}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.data("envelope", at_most=MAX_RECEIPT_BYTES), _clock(fields, "sent_us"))


TaskMessage = (
    OfferMessage
    | Resume
    | Accept
    | Refuse
    | Loading
    | Start
    | Progress
    | Result
    | Chunk
    | ReceiptMessage
    | Failed
    | Cancel
    | Ack
    | SettledMessage
)
_READERS = {
    message.KIND: message
    for message in (
        OfferMessage,
        Resume,
        Accept,
        Refuse,
        Loading,
        Start,
        Progress,
        Result,
        Chunk,
        ReceiptMessage,
        Failed,
        Cancel,
        Ack,
        SettledMessage,
    )
}


def to_value(message: TaskMessage) -> Value:
    return [message.KIND, message.body()]


def task_message_untrusted(value: Value) -> TaskMessage:
    """One message of a task stream; MalformedMessage says what is wrong with it."""
    match value:
        case [str(kind), body] if kind in _READERS:
            fields = Fields(body, kind)
            message = _READERS[kind].read(fields)
            fields.end()
            return message
    raise MalformedMessage("not a task message")


def _clock(fields: Fields, key: str) -> int:
    return fields.integer(key, 0, MAX_US)


def _sentence(fields: Fields) -> str:
    return plain(fields.text("sentence", at_most_bytes=MAX_SENTENCE_BYTES), 256)


def _span(item: Value) -> tuple[str, int, int]:
    match item:
        case [str(name), int(start_us), int(us)] if (
            0 < len(name) <= 32
            and name.isidentifier()
            and name.isascii()
            and 0 <= start_us <= MAX_US
            and 0 <= us <= MAX_US
            and not isinstance(start_us, bool)
            and not isinstance(us, bool)
        ):
            return name, start_us, us
    raise MalformedMessage("result: a span is a name, a start and a duration")
