"""The exact description of one picture; its hash names the picture wanted.  (README section 8.)"""

import hashlib
from dataclasses import dataclass, field
from typing import Self

from ..errors import MalformedMessage
from .canonical import Value, decode_untrusted, encode
from .fields import U32, Fields
from .hello import MODEL_ID_BYTES

MAX_STATEMENT_BYTES = 64 * 1024
MAX_PROMPT_BYTES = 8 * 1024
MAX_SIDE_PX = 8192
SIDE_MULTIPLE_PX = 8  # every whitelisted autoencoder works in 8-px cells
MAX_STEPS = 1000
MAX_GUIDANCE_MILLIONTHS = 100_000_000
MAX_ADAPTERS = 8
MAX_WEIGHT_MILLIONTHS = 10_000_000
USUAL_WEIGHT_MILLIONTHS = 1_000_000  # as the adapter was trained
SALT_BYTES = 16

KINDS = frozenset({"txt2img"})  # reserved: img2img, inpaint, upscale
SAMPLERS = frozenset({"euler", "ddim", "flow_euler"})  # one-step samplers: each step can be recomputed alone
PRECISIONS = frozenset({"fp32", "fp16", "bf16"})
AUDITS = frozenset({"none", "self", "named", "public"})
CODECS = frozenset({"png"})
NOISE = "noise/1"


@dataclass(frozen=True)
class Statement:
    """What to draw.  Everything that decides the pixels is here, and nothing about who draws it."""

    model: bytes
    prompt: str
    width: int
    height: int
    steps: int
    guidance_millionths: int
    sampler: str
    seed: int  # uint32; the pictures of a batch use seed + i mod 2^32
    salt: bytes  # random: the hash of a statement tells nobody its prompt
    precision: str
    negative: str = ""
    kind: str = "txt2img"
    audit: str = "none"
    codec: str = "png"
    sigmas: bytes | None = (
        None  # SHA-256 of little-endian fp32 sigmas; None: the sampler's own for these steps
    )
    adapters: tuple[tuple[bytes, int], ...] = ()  # adapter id, weight in millionths
    inputs: tuple[()] = ()  # reserved: role, hash, bytes, codec
    _received: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def to_value(self) -> Value:
        return {
            "kind": self.kind,
            "model": self.model,
            "adapters": [[adapter, weight] for adapter, weight in self.adapters],
            "prompt": self.prompt,
            "negative": self.negative,
            "width": self.width,
            "height": self.height,
            "steps": self.steps,
            "guidance_millionths": self.guidance_millionths,
            "sampler": self.sampler,
            "sigmas": self.sigmas,
            "noise": NOISE,
            "seed": self.seed,
            "inputs": [],
            "outputs": [{"role": "image", "codec": self.codec}],
            "precision": self.precision,
            "audit": self.audit,
            "salt": self.salt,
        }

    def to_bytes(self) -> bytes:
        """As it was received, with the fields that we do not know: the hash is of what its author wrote."""
        return self._received if self._received is not None else encode(self.to_value())

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @classmethod
    def from_untrusted(cls, data: bytes) -> Self:
        """MalformedMessage says which field is wrong and what would be right; UnknownCriticalField: refuse it."""
        fields = Fields(decode_untrusted(data, at_most_bytes=MAX_STATEMENT_BYTES), "statement")
        fields.choice("noise", frozenset({NOISE}))
        fields.items("inputs", at_most=0)
        (output,) = fields.items("outputs", at_least=1, at_most=1)
        output_fields = Fields(output, "statement.outputs[0]")
        output_fields.choice("role", frozenset({"image"}))
        statement = cls(
            kind=fields.choice("kind", KINDS),
            model=fields.data("model", exactly=MODEL_ID_BYTES),
            adapters=tuple(_adapter(item) for item in fields.items("adapters", at_most=MAX_ADAPTERS)),
            prompt=fields.text("prompt", at_most_bytes=MAX_PROMPT_BYTES, allow="\n"),
            negative=fields.text("negative", at_most_bytes=MAX_PROMPT_BYTES, allow="\n"),
            width=_side(fields, "width"),
            height=_side(fields, "height"),
            steps=fields.integer("steps", 1, MAX_STEPS),
            guidance_millionths=fields.integer("guidance_millionths", 0, MAX_GUIDANCE_MILLIONTHS),
            sampler=fields.choice("sampler", SAMPLERS),
            sigmas=fields.maybe("sigmas", lambda key: fields.data(key, exactly=32)),
            seed=fields.integer("seed", 0, U32),
            codec=output_fields.choice("codec", CODECS),
            precision=fields.choice("precision", PRECISIONS),
            audit=fields.choice("audit", AUDITS),
            salt=fields.data("salt", exactly=SALT_BYTES),
        )
        output_fields.end()
        fields.end()
        object.__setattr__(statement, "_received", data)
        return statement


def _side(fields: Fields, key: str) -> int:
    side = fields.integer(key, SIDE_MULTIPLE_PX, MAX_SIDE_PX)
    if side % SIDE_MULTIPLE_PX:
        raise MalformedMessage(f"statement: {key!r} must be a multiple of {SIDE_MULTIPLE_PX}")
    return side


def _adapter(item: Value) -> tuple[bytes, int]:
    match item:
        case [bytes(), bool()]:
            pass
        case [bytes(adapter), int(weight)] if (
            len(adapter) == MODEL_ID_BYTES and 0 <= weight <= MAX_WEIGHT_MILLIONTHS
        ):
            return adapter, weight
    raise MalformedMessage("statement: an adapter is an id and a weight in millionths")
