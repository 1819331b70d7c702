"""What a model is: the files its pipeline loads, each under the root of a hash tree.  (README section 14.)"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from ..errors import MalformedMessage
from .advert import FAMILIES
from .canonical import Value, decode_untrusted, encode
from .fields import U64, Fields

CHUNK_BYTES = 1 << 20
MAX_FILES = 4096
MAX_PATH_BYTES = 255
MAX_MANIFEST_BYTES = 1 << 20
MAX_CONFIG_BYTES = 1 << 20
MAX_CONFIG_DEPTH = 32
ROOT_BYTES = 32
ADAPTER_FAMILY = "lora"  # of an adapter's manifest, which names no pipeline
MANIFEST_TAG = b"nearlight/manifest/1\0"
LEAF_TAG = b"nearlight/leaf/1\0"
NODE_TAG = b"nearlight/node/1\0"
Digest: TypeAlias = bytes  # SHA-256; a class with a field named `bytes` needs the name

_FORBIDDEN = frozenset('\\:*?"<>|')  # in file names of one system or another

# What a config says of where it came from and of the libraries that wrote it; at any depth.
VOLATILE_KEYS = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "_diffusers_version",
        "transformers_version",
        "_commit_hash",
        "_use_default_values",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "dtype",
        "torch_dtype",
    }
)


def leaf(chunk: bytes) -> bytes:
    return hashlib.sha256(LEAF_TAG + chunk).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE_TAG + left + right).digest()


def chunk_hashes(data: bytes) -> list[bytes]:
    """The leaves of `data`: one for each CHUNK_BYTES, the last for what is left; one of nothing for no bytes."""
    return [leaf(data[start : start + CHUNK_BYTES]) for start in range(0, len(data) or 1, CHUNK_BYTES)]


class FileHasher:
    """The root of a file's tree, from its bytes in pieces of any size.  The tree has the shape of RFC 6962, 2.1."""

    def __init__(self) -> None:
        self._chunk = hashlib.sha256(LEAF_TAG)
        self._chunk_bytes = 0
        self._leaves = 0
        self._peaks: list[
            bytes
        ] = []  # roots of full trees, largest first: one for each 1 bit of the leaf count

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._chunk_bytes == CHUNK_BYTES:
                self._push()
            piece = view[: CHUNK_BYTES - self._chunk_bytes]
            self._chunk.update(piece)
            self._chunk_bytes += len(piece)
            view = view[len(piece) :]

    def _push(self) -> None:
        peak, full_trees = self._chunk.digest(), self._leaves
        while full_trees & 1:
            peak, full_trees = node(self._peaks.pop(), peak), full_trees >> 1
        self._peaks.append(peak)
        self._leaves += 1
        self._chunk, self._chunk_bytes = hashlib.sha256(LEAF_TAG), 0

    def root(self) -> bytes:
        """Of the bytes so far; more may follow."""
        root = self._chunk.digest()
        for peak in reversed(self._peaks):
            root = node(peak, root)
        return root


@dataclass(frozen=True)
class ManifestFile:
    """`path` within the model's folder, with forward slashes; `root` as FileHasher gives it."""

    path: str
    bytes: int
    root: Digest


@dataclass(frozen=True)
class Manifest:
    """Exactly the files that a pipeline loads, of a model or an adapter, by path.  ValueError where they cannot be that."""

    family: str  # or ADAPTER_FAMILY
    pipeline: str  # class name; "" of an adapter
    variant: str  # "", or the infix of the weight files ("fp16")
    files: tuple[ManifestFile, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.files) <= MAX_FILES:
            raise ValueError(f"a manifest has 1 to {MAX_FILES} files")
        paths = [file.path for file in self.files]
        for path in paths:
            _check_path(path)
        if paths != sorted(set(paths)):
            raise ValueError("the files are not in the order of their paths, each once")
        folded = {path.lower() for path in paths}
        if len(folded) != len(paths):
            raise ValueError("two paths differ in case only")
        if any(
            "/".join(path.split("/")[:depth]) in folded
            for path in folded
            for depth in range(1, path.count("/") + 1)
        ):
            raise ValueError("a file is the folder of another")

    def to_value(self) -> Value:
        return {
            "family": self.family,
            "pipeline": self.pipeline,
            "variant": self.variant,
            "files": [[file.path, file.bytes, file.root] for file in self.files],
        }

    def to_bytes(self) -> bytes:
        return encode(self.to_value())

    @property
    def id(self) -> bytes:
        """The id of the model or adapter: 32 bytes."""
        return hashlib.sha256(MANIFEST_TAG + self.to_bytes()).digest()

    @classmethod
    def from_untrusted(cls, data: bytes) -> Self:
        """MalformedMessage says what is wrong; no path in the result leaves the folder it is joined to."""
        fields = Fields(decode_untrusted(data, at_most_bytes=MAX_MANIFEST_BYTES), "manifest")
        family = fields.choice("family", FAMILIES | {ADAPTER_FAMILY})
        pipeline = fields.text("pipeline", at_most_bytes=64)
        variant = fields.text("variant", at_most_bytes=16)
        files = tuple(_file(item) for item in fields.items("files", at_least=1, at_most=MAX_FILES))
        fields.end()
        try:
            return cls(family, pipeline, variant, files)
        except ValueError as exc:
            raise MalformedMessage(f"manifest: {exc}") from exc


def _file(item: Value) -> ManifestFile:
    match item:
        case [str(path), int(size), bytes(root)] if not isinstance(size, bool) and 0 <= size <= U64:
            if len(root) == ROOT_BYTES:
                return ManifestFile(path, size, root)
    raise MalformedMessage("manifest: a file is a path, a size and a root")


def _check_path(path: str) -> None:
    if not 0 < len(path) <= MAX_PATH_BYTES or not path.isascii() or not path.isprintable():
        raise ValueError(f"a path is 1 to {MAX_PATH_BYTES} printable ASCII characters")
    if _FORBIDDEN & set(path):
        raise ValueError(f"{path!r} is no portable path")
    if any(
        not part or part[-1] in ". " or part[0] == " " for part in path.split("/")
    ):  # "", ".", ".." among them
        raise ValueError(f"{path!r} leaves its folder or has no portable name")


def normalise_config(json_bytes_untrusted: bytes) -> bytes:
    """The config without VOLATILE_KEYS, in the canonical JSON of RFC 8785; MalformedMessage where it has none."""
    if len(json_bytes_untrusted) > MAX_CONFIG_BYTES:
        raise MalformedMessage(f"a config of {len(json_bytes_untrusted)} bytes, limit {MAX_CONFIG_BYTES}")
    try:
        value = json.loads(
            json_bytes_untrusted.decode(), object_pairs_hook=_once, parse_constant=_refuse_constant
        )
        return _canonical_json(value, MAX_CONFIG_DEPTH).encode()
    except (ValueError, OverflowError, RecursionError) as exc:
        raise MalformedMessage(f"not a config: {exc}") from exc


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return {key: value for key, value in pairs if key not in VOLATILE_KEYS}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _canonical_json(value: Any, depth: int) -> str:
    if depth == 0:
        raise ValueError(f"nested deeper than {MAX_CONFIG_DEPTH}")
    match value:
        case dict():
            keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
            return (
                "{" + ",".join(f"{_text(key)}:{_canonical_json(value[key], depth - 1)}" for key in keys) + "}"
            )
        case list():
            return "[" + ",".join(_canonical_json(item, depth - 1) for item in value) + "]"
        case str():
            return _text(value)
        case None | bool():
            return json.dumps(value)
    return _number(float(value))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _number(number: float) -> str:
    """As ECMAScript writes it: the shortest digits that give the double back."""
    if not math.isfinite(number):
        raise ValueError("a number beyond the doubles")
    if number == 0:
        return "0"
    mantissa, exponent = f"{abs(number)!r}e0".split("e")[:2]
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent)  # of the decimal point, counted from the first digit of `whole`
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1:+d}"
    return "-" + text if number < 0 else text
