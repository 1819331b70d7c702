"""What a peer can do, signed: gossiped every 30-60 s and on change.  (README section 7.)"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from ..errors import LocalProtocolError, MalformedMessage
from .canonical import MAX_ITEMS, Value
from .coordinate import Coordinate
from .envelope import Domain, Envelope, open_untrusted, seal
from .fields import U32, U64, Fields, plain
from .hello import MAX_US, MODEL_ID_BYTES
from .statement import (
    KINDS,
    MAX_ADAPTERS,
    MAX_GUIDANCE_MILLIONTHS,
    MAX_SIDE_PX,
    MAX_STEPS,
    PRECISIONS,
    SAMPLERS,
)

TOPIC = "nearlight/{network}/adverts/1"
SYNC_PROTOCOL = "/nearlight/adverts/1"
KIND = "advert"
MAX_ADVERT_BYTES = 4096
MAX_SYNC_ADVERTS = 128  # adverts told to one peer on connect
MAX_SYNC_KNOWN = MAX_ITEMS  # peers in one request: as many as one map may name
MAX_ADDRESSES = 8
MAX_ADDRESS_BYTES = 256
MAX_DEVICES = 8
MAX_MODELS = 16
MAX_SPEEDS = 4
MAX_LIFETIME_S = 600
MAX_SHARD_BITS = 16  # 65,536 shards: beyond 8 million peers
MEMORY_BUCKET_MIB = 256  # free memory is told in buckets, so that it does not make every advert new

FAMILIES = frozenset({"sd", "sdxl", "sd3", "flux"})
MODEL_STATES = frozenset({"resident", "disk"})


@dataclass(frozen=True)
class Device:
    """A kind of device this peer renders on.  None is unknown, never a guess."""

    kind: str  # "cpu", "cuda", "mps", ...
    name: str
    count: int
    memory_mib: int | None
    free_memory_mib: int | None
    compute_capability: tuple[int, int] | None
    dtypes: tuple[str, ...]

    def to_value(self) -> Value:
        return {
            "kind": self.kind,
            "name": self.name,
            "count": self.count,
            "memory_mib": self.memory_mib,
            "free_memory_mib": self.free_memory_mib,
            "compute_capability": list(self.compute_capability) if self.compute_capability else None,
            "dtypes": list(self.dtypes),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        device = cls(
            kind=fields.text("kind", at_most_bytes=16),
            name=plain(fields.text("name", at_most_bytes=256)),
            count=fields.integer("count", 1, 1024),
            memory_mib=fields.maybe("memory_mib", lambda key: fields.integer(key, 0, U32)),
            free_memory_mib=fields.maybe("free_memory_mib", lambda key: fields.integer(key, 0, U32)),
            compute_capability=fields.maybe(
                "compute_capability", lambda key: _pair(fields.value(key), 0, 1000)
            ),
            dtypes=tuple(_precisions(fields.items("dtypes", at_most=8))),
        )
        fields.end()
        return device


@dataclass(frozen=True)
class Speed:
    """A measured speed: `step_us` for one guided step, `fixed_us` for the rest of a warm render, at this size."""

    width: int
    height: int
    precision: str
    step_us: int
    fixed_us: int

    def to_value(self) -> Value:
        return {
            "width": self.width,
            "height": self.height,
            "precision": self.precision,
            "step_us": self.step_us,
            "fixed_us": self.fixed_us,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        speed = cls(
            width=fields.integer("width", 1, MAX_SIDE_PX),
            height=fields.integer("height", 1, MAX_SIDE_PX),
            precision=fields.choice("precision", PRECISIONS),
            step_us=fields.integer("step_us", 1, MAX_US),
            fixed_us=fields.integer("fixed_us", 0, MAX_US),
        )
        fields.end()
        return speed


@dataclass(frozen=True)
class FewStep:
    """How an adapter is used that was trained to draw in few steps."""

    steps: int
    guidance_millionths: int
    sampler: str

    def to_value(self) -> Value:
        return {
            "steps": self.steps,
            "guidance_millionths": self.guidance_millionths,
            "sampler": self.sampler,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        few = cls(
            steps=fields.integer("steps", 1, MAX_STEPS),
            guidance_millionths=fields.integer("guidance_millionths", 0, MAX_GUIDANCE_MILLIONTHS),
            sampler=fields.choice("sampler", SAMPLERS),
        )
        fields.end()
        return few


@dataclass(frozen=True)
class OfferedAdapter:
    """An adapter (LoRA) that this peer applies to a model."""

    id: bytes
    name: str
    few_step: FewStep | None = None  # None: it changes what is drawn, not in how many steps

    def to_value(self) -> Value:
        return {
            "id": self.id,
            "name": self.name,
            **({"~few_step": self.few_step.to_value()} if self.few_step else {}),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        adapter = cls(
            id=fields.data("id", exactly=MODEL_ID_BYTES),
            name=plain(fields.text("name", at_most_bytes=256)),
            few_step=fields.maybe("~few_step", lambda key: FewStep.from_fields(fields.map(key))),
        )
        fields.end()
        return adapter


@dataclass(frozen=True)
class OfferedModel:
    """A model this peer renders with."""

    id: bytes
    name: str
    family: str
    state: str  # "resident": weights are loaded; "disk": they must be loaded first
    native: tuple[int, int]  # width, height in px
    load_us: int | None  # from disk to resident, as measured; None: not measured yet
    speeds: tuple[Speed, ...]  # empty: not measured yet
    total_bytes: int | None = None  # of its files; None: not told
    adapters: tuple[OfferedAdapter, ...] = ()  # that it applies to this model

    def to_value(self) -> Value:
        return {
            "id": self.id,
            "name": self.name,
            "family": self.family,
            "state": self.state,
            "native": list(self.native),
            "load_us": self.load_us,
            "speeds": [speed.to_value() for speed in self.speeds],
            "~bytes": self.total_bytes,
            **({"~adapters": [each.to_value() for each in self.adapters]} if self.adapters else {}),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        model = cls(
            id=fields.data("id", exactly=MODEL_ID_BYTES),
            name=plain(fields.text("name", at_most_bytes=256)),
            family=fields.choice("family", FAMILIES),
            state=fields.choice("state", MODEL_STATES),
            native=_pair(fields.value("native"), 1, MAX_SIDE_PX),
            load_us=fields.maybe("load_us", lambda key: fields.integer(key, 0, MAX_US)),
            speeds=tuple(Speed.from_fields(item) for item in fields.each("speeds", at_most=MAX_SPEEDS)),
            total_bytes=fields.maybe("~bytes", lambda key: fields.integer(key, 0, U64)),
            adapters=fields.maybe(
                "~adapters",
                lambda key: tuple(
                    OfferedAdapter.from_fields(item) for item in fields.each(key, at_most=MAX_ADAPTERS)
                ),
            )
            or (),
        )
        fields.end()
        return model


@dataclass(frozen=True)
class Limits:
    """What a provider accepts at most."""

    pixels: int
    steps: int
    prompt_bytes: int
    queue: int  # tasks waiting

    def to_value(self) -> Value:
        return {
            "pixels": self.pixels,
            "steps": self.steps,
            "prompt_bytes": self.prompt_bytes,
            "queue": self.queue,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        limits = cls(
            pixels=fields.integer("pixels", 1, MAX_SIDE_PX**2),
            steps=fields.integer("steps", 1, U32),
            prompt_bytes=fields.integer("prompt_bytes", 0, U32),
            queue=fields.integer("queue", 0, U32),
        )
        fields.end()
        return limits


@dataclass(frozen=True)
class Advert:
    """The capabilities of one peer at one moment.  (boot_epoch, sequence) orders the adverts of one key."""

    name: str
    boot_epoch: int  # grows by one at each start of the peer and survives restarts
    sequence: int  # grows by one with each advert of a boot
    issued_us: int  # the issuer's wall clock, Unix microseconds: to name a wrong clock, never to expire by
    lifetime_s: int  # after this long without a newer one, forget the peer
    addresses: tuple[str, ...]
    kinds: tuple[str, ...]  # task kinds it renders; empty: it does not provide
    devices: tuple[Device, ...] = ()
    models: tuple[OfferedModel, ...] = ()
    limits: Limits | None = None
    price_millionths: int | None = None  # credits x 10^-6 for one step of one megapixel
    coordinate: Coordinate | None = None  # None: not told, or in a way that this version does not know
    shard_bits: int = 0  # the depth of the shard that it listens in; 0: the topic of all

    @property
    def version(self) -> tuple[int, int]:
        return self.boot_epoch, self.sequence

    def offered(self, model: bytes) -> OfferedModel | None:
        """What it says of the model with that id; None: nothing."""
        return self._offered.get(model)

    @cached_property
    def _offered(self) -> dict[bytes, OfferedModel]:
        return {model.id: model for model in reversed(self.models)}  # of two with one id, the first counts

    def to_value(self) -> Value:
        return {
            "name": self.name,
            "boot_epoch": self.boot_epoch,
            "sequence": self.sequence,
            "issued_us": self.issued_us,
            "lifetime_s": self.lifetime_s,
            "addresses": list(self.addresses),
            "kinds": list(self.kinds),
            "devices": [device.to_value() for device in self.devices],
            "models": [model.to_value() for model in self.models],
            "limits": self.limits.to_value() if self.limits else None,
            "~price_millionths": self.price_millionths,
            "~coordinate": self.coordinate.to_bytes() if self.coordinate else None,
            **({"~shard_bits": self.shard_bits} if self.shard_bits else {}),
        }

    @classmethod
    def from_untrusted(cls, value: Value) -> Self:
        fields = Fields(value, "advert")
        advert = cls(
            name=plain(fields.text("name", at_most_bytes=256)),
            boot_epoch=fields.integer("boot_epoch", 0, U64),
            sequence=fields.integer("sequence", 0, U64),
            issued_us=fields.integer("issued_us", 0, U64),
            lifetime_s=fields.integer("lifetime_s", 1, MAX_LIFETIME_S),
            addresses=tuple(_addresses(fields.items("addresses", at_most=MAX_ADDRESSES))),
            kinds=tuple(_known_kinds(fields.items("kinds", at_most=16))),
            devices=tuple(Device.from_fields(item) for item in fields.each("devices", at_most=MAX_DEVICES)),
            models=tuple(
                OfferedModel.from_fields(item) for item in fields.each("models", at_most=MAX_MODELS)
            ),
            limits=fields.maybe("limits", lambda key: Limits.from_fields(fields.map(key))),
            price_millionths=fields.maybe("~price_millionths", lambda key: fields.integer(key, 0, U64)),
            coordinate=fields.maybe(
                "~coordinate", lambda key: Coordinate.from_untrusted(fields.data(key, at_most=64))
            ),
            shard_bits=fields.maybe("~shard_bits", lambda key: fields.integer(key, 0, MAX_SHARD_BITS)) or 0,
        )
        fields.end()
        if advert.kinds and advert.limits is None:
            raise MalformedMessage("advert: a provider states its limits")
        return advert


@dataclass(frozen=True)
class SignedAdvert:
    """An advert and the proof that its peer said so."""

    advert: Advert
    envelope: Envelope

    @property
    def peer(self) -> str:
        return self.envelope.signer

    @classmethod
    def from_untrusted(cls, data: bytes, *, network: str) -> Self:
        """MalformedMessage, UnknownCriticalField (ignore this advert) or BadSignature."""
        envelope = open_untrusted(data, domain=Domain(network, KIND), at_most_bytes=MAX_ADVERT_BYTES)
        return cls(Advert.from_untrusted(envelope.value_untrusted()), envelope)

    @classmethod
    def sign(cls, advert: Advert, *, network: str, private_key: bytes) -> Self:
        """Raises ValueError if the advert is larger than MAX_ADVERT_BYTES."""
        envelope = seal(advert.to_value(), domain=Domain(network, KIND), private_key=private_key)
        size = len(envelope.to_bytes())
        if size > MAX_ADVERT_BYTES:
            raise ValueError(f"an advert of {size} bytes, limit {MAX_ADVERT_BYTES}: advertise fewer models")
        return cls(advert, envelope)


def sync_request(known: dict[str, tuple[int, int]]) -> Value:
    """Asks for the adverts that are newer than those we hold: ``known[peer id] = (boot_epoch, sequence)``.

    LocalProtocolError beyond MAX_SYNC_KNOWN: nobody could read it.
    """
    if len(known) > MAX_SYNC_KNOWN:
        raise LocalProtocolError(f"{len(known)} peers in a request, limit {MAX_SYNC_KNOWN}")
    return ["known", {peer: list(version) for peer, version in known.items()}]


def known_untrusted(value: Value) -> dict[str, tuple[int, int]]:
    match value:
        case ["known", dict(versions)]:
            return {peer: _pair(version, 0, U64) for peer, version in versions.items()}
    raise MalformedMessage("not a request for adverts")


def sync_reply(adverts: list[Envelope]) -> Value:
    return ["adverts", [advert.to_bytes() for advert in adverts[:MAX_SYNC_ADVERTS]]]


def adverts_untrusted(value: Value) -> list[bytes]:
    """The envelopes of a sync reply, each to be given to `SignedAdvert.from_untrusted`."""
    match value:
        case ["adverts", list(items)] if len(items) <= MAX_SYNC_ADVERTS:
            if all(isinstance(item, bytes) and len(item) <= MAX_ADVERT_BYTES for item in items):
                return items  # type: ignore[return-value]
    raise MalformedMessage("not a list of adverts")


def _pair(value: Value, low: int, high: int) -> tuple[int, int]:
    match value:
        case [bool(), _] | [_, bool()]:
            pass
        case [int(first), int(second)] if low <= first <= high and low <= second <= high:
            return first, second
    raise MalformedMessage(f"not a pair of integers from {low} to {high}")


def _addresses(items: list[Value]) -> list[str]:
    for item in items:
        if (
            not isinstance(item, str)
            or len(item) > MAX_ADDRESS_BYTES
            or not item.isascii()
            or not item.isprintable()
        ):
            raise MalformedMessage("not an address")
    return items  # type: ignore[return-value]


def _known_kinds(items: list[Value]) -> list[str]:
    """Kinds that this version knows; a newer peer may offer others beside them."""
    return [item for item in items if isinstance(item, str) and item in KINDS]


def _precisions(items: list[Value]) -> list[str]:
    return [item for item in items if isinstance(item, str) and item in PRECISIONS]
