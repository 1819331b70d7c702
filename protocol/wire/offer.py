"""One signed proposal of one statement to one provider: an attempt.  (README section 8.)"""

from dataclasses import dataclass
from typing import Self

from ..errors import RemoteProtocolError
from .canonical import Value
from .envelope import Domain, Envelope, open_untrusted, seal
from .fields import U64, Fields
from .hello import BOOT_ID_BYTES, MAX_US
from .identity import KEY_BYTES
from .statement import MAX_STATEMENT_BYTES, Statement

KIND = "offer"
MAX_OFFER_BYTES = MAX_STATEMENT_BYTES + 1024
ATTEMPT_BYTES = 16
MAX_AHEAD_US = 600_000_000  # how far ahead an offer may expire: bounds what a provider must remember


@dataclass(frozen=True)
class Offer:
    """To whom, until when, at what price.  A repeated offer of one attempt is the same offer."""

    statement: Statement
    provider: bytes  # public key
    boot_id: bytes  # of the provider, from its HELLO
    attempt: bytes  # random, names this attempt for ever
    expires_us: int  # on the provider's clock of this connection
    max_wait_us: int | None  # refuse rather than start later than this; None: whenever you can
    price_cap_millionths: int | None = None
    value_of_time_millionths: int = 0  # credits x 10^-6 that a second is worth to the requester
    due_us: int | None = None  # as expires_us: of no use where RESULT is said later; None: whenever it comes

    def to_value(self) -> Value:
        value: dict[str, Value] = {
            "statement": self.statement.to_bytes(),
            "provider": self.provider,
            "boot_id": self.boot_id,
            "attempt": self.attempt,
            "expires_us": self.expires_us,
            "max_wait_us": self.max_wait_us,
            "price_cap_millionths": self.price_cap_millionths,
            "value_of_time_millionths": self.value_of_time_millionths,
        }
        if self.due_us is not None:
            value["~due_us"] = self.due_us
        return value

    @classmethod
    def from_untrusted(cls, value: Value) -> Self:
        fields = Fields(value, "offer")
        offer = cls(
            statement=Statement.from_untrusted(fields.data("statement", at_most=MAX_STATEMENT_BYTES)),
            provider=fields.data("provider", exactly=KEY_BYTES),
            boot_id=fields.data("boot_id", exactly=BOOT_ID_BYTES),
            attempt=fields.data("attempt", exactly=ATTEMPT_BYTES),
            expires_us=fields.integer("expires_us", 0, MAX_US),
            max_wait_us=fields.maybe("max_wait_us", lambda key: fields.integer(key, 0, MAX_US)),
            price_cap_millionths=fields.maybe(
                "price_cap_millionths", lambda key: fields.integer(key, 0, U64)
            ),
            value_of_time_millionths=fields.integer("value_of_time_millionths", 0, U64),
            due_us=fields.maybe("~due_us", lambda key: fields.integer(key, 0, MAX_US)),
        )
        fields.end()
        return offer


@dataclass(frozen=True)
class SignedOffer:
    offer: Offer
    envelope: Envelope

    @property
    def requester(self) -> str:
        return self.envelope.signer

    @classmethod
    def from_untrusted(cls, data: bytes, *, network: str) -> Self:
        envelope = open_untrusted(data, domain=Domain(network, KIND), at_most_bytes=MAX_OFFER_BYTES)
        return cls(Offer.from_untrusted(envelope.value_untrusted()), envelope)

    @classmethod
    def sign(cls, offer: Offer, *, network: str, private_key: bytes) -> Self:
        return cls(offer, seal(offer.to_value(), domain=Domain(network, KIND), private_key=private_key))


class ReplayedOffer(RemoteProtocolError):
    """The offer was made to someone else, by someone else, at another time, or to an earlier run of this peer."""


def check_addressed_untrusted(
    signed: SignedOffer, *, provider: bytes, boot_id: bytes, stream_peer: str, now_us: int
) -> None:
    """Replays die here (ReplayedOffer).  `now_us` is the provider's clock of this connection.

    The bounded set of attempts already seen is the queue's: a repeat of one is answered, not run again.
    """
    offer = signed.offer
    if offer.provider != provider:
        raise ReplayedOffer("this offer is for another provider")
    if signed.requester != stream_peer:
        raise ReplayedOffer("this offer was signed by another requester")
    if offer.boot_id != boot_id:
        raise ReplayedOffer("this offer was made to an earlier run of this peer: say hello again")
    if not now_us < offer.expires_us <= now_us + MAX_AHEAD_US:
        raise ReplayedOffer("this offer has expired, or expires too far ahead")
