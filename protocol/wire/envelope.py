"""Signed bytes: what is hashed, stored and relayed is the payload as its signer wrote it.  (README section 5.)"""

import hashlib
from dataclasses import dataclass

from .canonical import MAX_MESSAGE_BYTES, Value, decode_untrusted, encode
from .fields import Fields
from .identity import KEY_BYTES, SIGNATURE_BYTES, peer_id_of, public_key_of, sign, verify_untrusted


@dataclass(frozen=True)
class Domain:
    """What a signature is for: nobody can replay it on another network, or as another kind or version of message."""

    network: str
    kind: str
    version: int = 1

    @property
    def tag(self) -> bytes:
        return f"nearlight/{self.network}/{self.kind}/{self.version}".encode() + b"\0"


@dataclass(frozen=True)
class Envelope:
    """A payload whose signature was verified; there is no other way to hold one."""

    payload: bytes
    key: bytes
    signature: bytes

    @property
    def signer(self) -> str:
        """The signer's peer id."""
        return peer_id_of(self.key)

    @property
    def hash(self) -> bytes:
        """SHA-256 of the payload: how other messages refer to this one."""
        return hashlib.sha256(self.payload).digest()

    def to_bytes(self) -> bytes:
        return encode({"key": self.key, "payload": self.payload, "signature": self.signature})

    def value_untrusted(self) -> Value:
        """The payload decoded; MalformedMessage if it is not canonical."""
        return decode_untrusted(self.payload)


def seal(value: Value, *, domain: Domain, private_key: bytes) -> Envelope:
    payload = encode(value)
    return Envelope(payload, public_key_of(private_key), sign(private_key, domain.tag + payload))


def open_untrusted(data: bytes, *, domain: Domain, at_most_bytes: int = MAX_MESSAGE_BYTES) -> Envelope:
    """The envelope in `data`; MalformedMessage or BadSignature."""
    fields = Fields(decode_untrusted(data, at_most_bytes=at_most_bytes), "envelope")
    envelope = Envelope(
        payload=fields.data("payload"),
        key=fields.data("key", exactly=KEY_BYTES),
        signature=fields.data("signature", exactly=SIGNATURE_BYTES),
    )
    fields.end()
    verify_untrusted(envelope.key, domain.tag + envelope.payload, envelope.signature)
    return envelope
