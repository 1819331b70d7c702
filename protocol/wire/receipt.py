"""The provider's signed account of one attempt, and the requester's acknowledgement.  (README section 10.)"""

import hashlib
from dataclasses import dataclass
from typing import Self

from .canonical import Value
from .envelope import Domain, Envelope, open_untrusted, seal
from .fields import U32, U64, Fields, plain
from .hello import MAX_US
from .offer import ATTEMPT_BYTES
from .statement import MAX_SIDE_PX, MAX_STEPS

KIND = "receipt"
SETTLED_KIND = "settled"
MAX_RECEIPT_BYTES = 1024
HASH_BYTES = 32
MAX_FILE_BYTES = 256 << 20

OUTCOMES = frozenset({"done", "cancelled", "failed"})
TRACE_CLASSES = frozenset({"uncommitted"})  # reserved: fp32, fp16, bf16


@dataclass(frozen=True)
class Receipt:
    """What the provider says it did.  A claim; with the offer and the requester's SETTLED it is the ledger's entry."""

    attempt: bytes
    statement: bytes  # hash
    requester: bytes  # public key
    outcome: str
    steps_done: int
    outputs_root: bytes  # root over the outputs' file hashes; zeros where there are none
    outputs: int
    pixels: bytes  # pixel_hash; zeros where there are none
    file: bytes  # SHA-256 of the file as sent; zeros where there are none
    file_bytes: int
    sigmas: bytes  # SHA-256 of the fp32 little-endian sigmas that were used; zeros before the first step
    environment: str
    queue_us: int
    load_us: int
    render_us: int
    finished_us: int  # provider's wall clock, Unix microseconds
    retain_s: int  # how long the result can be fetched again
    price_millionths: int = 0  # of the steps that were done
    latency_millionths: int | None = None  # what its times cost at the offer's value of time; None: not told
    trace_root: bytes = b""
    trace_leaves: int = 0
    trace_class: str = "uncommitted"

    def to_value(self) -> Value:
        value: dict[str, Value] = {
            "attempt": self.attempt,
            "statement": self.statement,
            "requester": self.requester,
            "outcome": self.outcome,
            "steps_done": self.steps_done,
            "outputs_root": self.outputs_root,
            "outputs": self.outputs,
            "pixels": self.pixels,
            "file": self.file,
            "file_bytes": self.file_bytes,
            "sigmas": self.sigmas,
            "environment": self.environment,
            "queue_us": self.queue_us,
            "load_us": self.load_us,
            "render_us": self.render_us,
            "finished_us": self.finished_us,
            "retain_s": self.retain_s,
            "price_millionths": self.price_millionths,
            "trace_root": self.trace_root,
            "trace_leaves": self.trace_leaves,
            "trace_class": self.trace_class,
        }
        if self.latency_millionths is not None:
            value["~latency_millionths"] = self.latency_millionths
        return value

    @classmethod
    def from_untrusted(cls, value: Value) -> Self:
        fields = Fields(value, "receipt")
        receipt = cls(
            attempt=fields.data("attempt", exactly=ATTEMPT_BYTES),
            statement=fields.data("statement", exactly=HASH_BYTES),
            requester=fields.data("requester", exactly=32),
            outcome=fields.choice("outcome", OUTCOMES),
            steps_done=fields.integer("steps_done", 0, MAX_STEPS),
            outputs_root=fields.data("outputs_root", exactly=HASH_BYTES),
            outputs=fields.integer("outputs", 0, 1),
            pixels=fields.data("pixels", exactly=HASH_BYTES),
            file=fields.data("file", exactly=HASH_BYTES),
            file_bytes=fields.integer("file_bytes", 0, MAX_FILE_BYTES),
            sigmas=fields.data("sigmas", exactly=HASH_BYTES),
            environment=plain(fields.text("environment", at_most_bytes=256), 128),
            queue_us=fields.integer("queue_us", 0, MAX_US),
            load_us=fields.integer("load_us", 0, MAX_US),
            render_us=fields.integer("render_us", 0, MAX_US),
            finished_us=fields.integer("finished_us", 0, U64),
            retain_s=fields.integer("retain_s", 0, U32),
            price_millionths=fields.integer("price_millionths", 0, U64),
            latency_millionths=fields.maybe("~latency_millionths", lambda key: fields.integer(key, 0, U64)),
            trace_root=fields.data("trace_root", at_most=HASH_BYTES),
            trace_leaves=fields.integer("trace_leaves", 0, U32),
            trace_class=fields.choice("trace_class", TRACE_CLASSES),
        )
        fields.end()
        return receipt


@dataclass(frozen=True)
class SignedReceipt:
    receipt: Receipt
    envelope: Envelope

    @property
    def provider(self) -> str:
        return self.envelope.signer

    @classmethod
    def from_untrusted(cls, data: bytes, *, network: str) -> Self:
        envelope = open_untrusted(data, domain=Domain(network, KIND), at_most_bytes=MAX_RECEIPT_BYTES)
        return cls(Receipt.from_untrusted(envelope.value_untrusted()), envelope)

    @classmethod
    def sign(cls, receipt: Receipt, *, network: str, private_key: bytes) -> Self:
        envelope = seal(receipt.to_value(), domain=Domain(network, KIND), private_key=private_key)
        size = len(envelope.to_bytes())
        if size > MAX_RECEIPT_BYTES:
            raise ValueError(f"a receipt of {size} bytes, limit {MAX_RECEIPT_BYTES}")
        return cls(receipt, envelope)


@dataclass(frozen=True)
class Settled:
    """The requester's word on a receipt it checked: it has the bytes, or it does not owe for them."""

    attempt: bytes
    receipt: bytes  # envelope hash of the receipt
    accepted: bool

    def sign(self, *, network: str, private_key: bytes) -> Envelope:
        value: Value = {"attempt": self.attempt, "receipt": self.receipt, "accepted": self.accepted}
        return seal(value, domain=Domain(network, SETTLED_KIND), private_key=private_key)

    @classmethod
    def from_untrusted(cls, data: bytes, *, network: str) -> tuple[Self, Envelope]:
        envelope = open_untrusted(data, domain=Domain(network, SETTLED_KIND), at_most_bytes=MAX_RECEIPT_BYTES)
        fields = Fields(envelope.value_untrusted(), "settled")
        settled = cls(
            attempt=fields.data("attempt", exactly=ATTEMPT_BYTES),
            receipt=fields.data("receipt", exactly=HASH_BYTES),
            accepted=fields.flag("accepted"),
        )
        fields.end()
        return settled, envelope


def pixel_hash(rgb: bytes, *, width: int, height: int) -> bytes:
    """SHA-256 over the tag, width and height (u32 big-endian) and the RGB8 pixels in row order."""
    if len(rgb) != 3 * width * height or not 0 < width <= MAX_SIDE_PX or not 0 < height <= MAX_SIDE_PX:
        raise ValueError(f"{len(rgb)} bytes are not {width}x{height} RGB pixels")
    header = b"nearlight/pixels/1\0" + width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return hashlib.sha256(header + rgb).digest()
