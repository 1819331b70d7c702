"""Pictures at the door: PNG files of others are judged before they are decoded, and carry their receipt in one chunk."""

import base64
import binascii
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from protocol.errors import MalformedMessage, RemoteProtocolError
from protocol.wire.canonical import decode_untrusted, encode
from protocol.wire.fields import Fields
from protocol.wire.hello import MAX_NETWORK_BYTES
from protocol.wire.identity import peer_id_of
from protocol.wire.offer import MAX_OFFER_BYTES, SignedOffer
from protocol.wire.receipt import MAX_FILE_BYTES, MAX_RECEIPT_BYTES, Receipt, SignedReceipt, pixel_hash
from protocol.wire.statement import MAX_SIDE_PX, MAX_STATEMENT_BYTES, Statement

KEYWORD = b"nearlight"
MAX_BUNDLE_BYTES = MAX_OFFER_BYTES + MAX_STATEMENT_BYTES + MAX_RECEIPT_BYTES + 1024

# PNG specification, third edition (W3C), section 5.
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK_OVERHEAD_BYTES = 12
_IHDR_BYTES = 13
_RGB8 = bytes((8, 2, 0, 0, 0))  # bit depth, colour type, compression, filter, not interlaced
# What a rendered picture may consist of: nothing that changes how its pixels are shown, nothing that carries words.
_RENDERED_KINDS = frozenset({b"IHDR", b"IDAT", b"IEND", b"pHYs", b"sRGB"})
_PIXEL_KINDS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_MAX_SMALL_CHUNK_BYTES = 16
# The largest picture in the smallest IDAT chunks in use (libpng: 8 KiB) has half as many.
_MAX_CHUNKS = 65_536


class NotAPicture(RemoteProtocolError):
    """The bytes are not a PNG picture of the size and kind that was asked for."""


class UnreadablePicture(Exception):
    """The file FILE cannot be read as a PNG picture: why."""


@dataclass(frozen=True)
class Bundle:
    """What travels in a picture: the provider's receipt, and as much as its owner wants to show of what it answers."""

    network: str
    receipt: bytes  # SignedReceipt envelope
    offer: bytes | None = None  # SignedOffer envelope: holds the prompt
    statement: bytes | None = None  # canonical statement: holds the prompt

    def to_bytes(self) -> bytes:
        return encode(
            {
                "network": self.network,
                "offer": self.offer,
                "receipt": self.receipt,
                "statement": self.statement,
            }
        )

    @classmethod
    def from_untrusted(cls, data: bytes) -> "Bundle":
        fields = Fields(decode_untrusted(data, at_most_bytes=MAX_BUNDLE_BYTES), "bundle")
        bundle = cls(
            network=fields.text("network", at_most_bytes=MAX_NETWORK_BYTES),
            receipt=fields.data("receipt", at_most=MAX_RECEIPT_BYTES),
            offer=fields.maybe("offer", lambda key: fields.data(key, at_most=MAX_OFFER_BYTES)),
            statement=fields.maybe("statement", lambda key: fields.data(key, at_most=MAX_STATEMENT_BYTES)),
        )
        fields.end()
        return bundle


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found."""

    what: str
    ok: bool
    sentence: str


@dataclass(frozen=True)
class VerifyReport:
    """What `peer verify` found.  `checked` lists exactly what was looked at; nothing else was."""

    path: Path
    verdict: Literal["unchanged", "re-saved", "changed", "bad receipt", "no receipt"]
    checked: tuple[Check, ...]
    network: str | None = None
    provider: str | None = None  # peer id, from the signature
    requester: str | None = None  # peer id that the receipt names
    receipt: Receipt | None = None
    statement: Statement | None = None

    @property
    def ok(self) -> bool:
        """The pixels are those that the provider signed."""
        return self.verdict in {"unchanged", "re-saved"}


# the chunk


def embed(png: bytes, text: bytes) -> bytes:
    """`png` with `text` (a bundle's bytes), base64, in one tEXt chunk right before IEND.

    `strip` gives back both, byte for byte.  ValueError if `png` is no PNG or `text` is too long to be found again.
    """
    if len(text) > MAX_BUNDLE_BYTES:
        raise ValueError(f"{len(text)} bytes to embed, limit {MAX_BUNDLE_BYTES}")
    try:
        *_, end = _chunks_untrusted(png)
    except NotAPicture as exc:
        raise ValueError(str(exc)) from exc
    chunk = _chunk(b"tEXt", KEYWORD + b"\0" + base64.b64encode(text))
    return png[: end.start] + chunk + png[end.start :]


def strip(png: bytes) -> tuple[bytes, bytes | None]:
    """The picture without the chunk that `embed` put before IEND, and its text; None, and all of it, without one.

    NotAPicture if `png` is no PNG, or if that chunk is ours and broken.
    """
    *before, end = _chunks_untrusted(png)
    if not before or not before[-1].is_ours:
        return png, None
    return png[: before[-1].start] + png[end.start :], _text_untrusted(before[-1])


# a result


def check_picture_untrusted(data: bytes, width: int, height: int) -> bytes:
    """The RGB8 pixels, in row order, of a PNG that must be `width` x `height`; NotAPicture otherwise.

    Structure, header and the size that the pixels unpack to are judged before anything is decoded: what this
    allocates is bounded by the size asked, whatever the bytes claim.
    """
    if not 0 < width <= MAX_SIDE_PX or not 0 < height <= MAX_SIDE_PX:
        raise ValueError(f"no picture has {width}x{height} pixels")
    raw_bytes = height * (1 + 3 * width)  # a filter byte before each row
    # Incompressible rows in stored deflate blocks of 4 KiB and IDAT chunks of 1 KiB stay below this.
    at_most_bytes = raw_bytes + raw_bytes // 64 + 4096
    if len(data) > at_most_bytes:
        raise NotAPicture(
            f"a picture of {len(data)} bytes, where {width}x{height} needs at most {at_most_bytes}"
        )
    chunks = list(_chunks_untrusted(data))
    header = chunks[0].body
    size = struct.unpack(">II", header[:8])
    if size != (width, height):
        raise NotAPicture(f"a picture of {size[0]}x{size[1]}, where {width}x{height} was asked")
    if header[8:] != _RGB8:
        raise NotAPicture("the picture is not 8-bit RGB without interlacing")
    for chunk in chunks:
        if chunk.kind not in _RENDERED_KINDS:
            raise NotAPicture(f"a rendered picture has no {chunk.kind!r} chunk")
        if chunk.kind != b"IDAT" and len(chunk.body) > _MAX_SMALL_CHUNK_BYTES:
            raise NotAPicture(f"a {chunk.kind!r} chunk of {len(chunk.body)} bytes")
    # Pillow fills the rows that are missing with zeros, and ignores those that are too many.
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(
            b"".join(chunk.body for chunk in chunks if chunk.kind == b"IDAT"), raw_bytes + 1
        )
    except zlib.error as exc:
        raise NotAPicture(f"the picture does not unpack: {exc}") from exc
    if len(raw) != raw_bytes or not unpacker.eof or unpacker.unused_data:
        raise NotAPicture(f"the picture does not unpack to exactly {raw_bytes} bytes")
    if any(raw[row] > 4 for row in range(0, raw_bytes, 1 + 3 * width)):
        raise NotAPicture("the picture has a row filter that PNG does not know")
    rgb = _decode_rgb_untrusted(chunks)
    if len(rgb) != 3 * width * height:
        raise NotAPicture("the picture does not decode")
    return rgb


# a file


def verify_file(path: Path, *, bundle: bytes | None = None) -> VerifyReport:
    """Whether the picture in `path` is the one its receipt tells of; UnreadablePicture if it is no picture at all.

    `bundle` is used where the file carries none (an editor dropped it, the ledger has it).
    """
    data = _read_file(path)
    try:
        chunks = list(_chunks_untrusted(data))
        stripped, _ = strip(data)
        ours = [chunk for chunk in chunks if chunk.is_ours]
        found = _text_untrusted(ours[-1]) if ours else bundle
    except NotAPicture as exc:
        raise UnreadablePicture(f"The file {path} cannot be read as a PNG picture: {exc}.") from exc
    if found is None:
        return VerifyReport(path, "no receipt", (Check("receipt", False, "The file carries no receipt."),))
    try:
        shown = Bundle.from_untrusted(found)
        signed = SignedReceipt.from_untrusted(shown.receipt, network=shown.network)
    except RemoteProtocolError as exc:
        return VerifyReport(
            path, "bad receipt", (Check("signature", False, f"The receipt is not valid: {exc}."),)
        )
    receipt = signed.receipt
    checked = [
        Check("signature", True, f"The receipt is signed by {signed.provider} on network {shown.network!r}."),
        Check("outcome", receipt.outcome == "done", f"The receipt says that the task was {receipt.outcome}."),
    ]
    statement, more = _check_shown(shown, signed)
    checked += more
    verdict: Literal["unchanged", "re-saved", "changed", "bad receipt"]
    if not all(check.ok for check in checked):
        verdict = "bad receipt"
    elif hashlib.sha256(stripped).digest() == receipt.file and len(stripped) == receipt.file_bytes:
        verdict = "unchanged"
        checked.append(Check("file", True, "The file is, byte for byte, the one that was signed."))
    else:
        checked.append(Check("file", False, "The file is not, byte for byte, the one that was signed."))
        same = _pixel_hash_of(path, chunks) == receipt.pixels
        verdict = "re-saved" if same else "changed"
        sentence = "are those that were signed" if same else "are not those that were signed"
        checked.append(Check("pixels", same, f"The pixels {sentence}."))
    return VerifyReport(
        path=path,
        verdict=verdict,
        checked=tuple(checked),
        network=shown.network,
        provider=signed.provider,
        requester=peer_id_of(receipt.requester),
        receipt=receipt,
        statement=statement,
    )


def _check_shown(shown: Bundle, signed: SignedReceipt) -> tuple[Statement | None, list[Check]]:
    """What the bundle shows beside the receipt, and whether it is what the receipt answers."""
    checks = []
    statement = None
    receipt = signed.receipt
    if shown.statement is not None:
        same = hashlib.sha256(shown.statement).digest() == receipt.statement
        sentence = (
            "is the one that the receipt answers" if same else "is not the one that the receipt answers"
        )
        try:
            statement = Statement.from_untrusted(shown.statement) if same else None
        except MalformedMessage as exc:
            same, sentence = False, f"cannot be read: {exc}"
        checks.append(Check("statement", same, f"The statement {sentence}."))
    if shown.offer is not None:
        try:
            offer = SignedOffer.from_untrusted(shown.offer, network=shown.network)
        except RemoteProtocolError as exc:
            checks.append(Check("offer", False, f"The offer is not valid: {exc}."))
        else:
            answered = (
                offer.envelope.key == receipt.requester
                and offer.offer.provider == signed.envelope.key
                and offer.offer.attempt == receipt.attempt
                and offer.offer.statement.hash == receipt.statement
            )
            sentence = "is the one that the receipt answers" if answered else "belongs to another receipt"
            checks.append(Check("offer", answered, f"The offer, signed by {offer.requester}, {sentence}."))
            statement = statement or (offer.offer.statement if answered else None)
    return statement, checks


def _read_file(path: Path) -> bytes:
    limit_bytes = MAX_FILE_BYTES + 2 * MAX_BUNDLE_BYTES
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as exc:
        raise UnreadablePicture(f"The file {path} cannot be read: {exc.strerror}.") from exc
    if len(data) > limit_bytes:
        raise UnreadablePicture(
            f"The file {path} is larger than any picture of Nearlight ({limit_bytes} bytes)."
        )
    return data


def _pixel_hash_of(path: Path, chunks: list["_Chunk"]) -> bytes:
    """The pixel hash of a PNG of any kind, converted to RGB8."""
    width, height = struct.unpack(">II", chunks[0].body[:8])
    if not 0 < width <= MAX_SIDE_PX or not 0 < height <= MAX_SIDE_PX:
        raise UnreadablePicture(
            f"The file {path} claims {width}x{height} pixels: more than any picture of Nearlight."
        )
    try:
        return pixel_hash(_decode_rgb_untrusted(chunks), width=width, height=height)
    except (NotAPicture, ValueError) as exc:
        raise UnreadablePicture(f"The file {path} cannot be read as a PNG picture: {exc}.") from exc


def _decode_rgb_untrusted(chunks: list["_Chunk"]) -> bytes:
    """RGB8 pixels of a PNG whose size was judged; NotAPicture.

    Pillow sees the pixels and nothing else: its warnings are about what stands around them, and they could not be
    caught here, because the filters that catch them belong to all threads.  MAX_SIDE_PX keeps every picture below
    its MAX_IMAGE_PIXELS.
    """
    from PIL import Image

    png = _SIGNATURE + b"".join(
        _chunk(chunk.kind, chunk.body) for chunk in chunks if chunk.kind in _PIXEL_KINDS
    )

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            rgb: bytes = image.convert("RGB").tobytes()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as exc:
        raise NotAPicture(f"the picture does not decode: {exc}") from exc
    return rgb


# chunks


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int  # offset of the chunk's length field in the file
    body: bytes

    @property
    def is_ours(self) -> bool:
        return self.kind == b"tEXt" and self.body.startswith(KEYWORD + b"\0")


def _chunks_untrusted(data: bytes) -> Iterator[_Chunk]:
    """Each chunk, IHDR first and IEND last with nothing behind it, each CRC recomputed; NotAPicture."""
    if not data.startswith(_SIGNATURE):
        raise NotAPicture("it is no PNG file, and no other carries a receipt")
    start, kind, view, count = len(_SIGNATURE), b"", memoryview(data), 0
    while kind != b"IEND":
        count += 1
        if count > _MAX_CHUNKS:
            raise NotAPicture(f"more than {_MAX_CHUNKS} chunks")
        if len(data) - start < _CHUNK_OVERHEAD_BYTES:
            raise NotAPicture("the file ends inside its chunks")
        (size,) = struct.unpack_from(">I", data, start)
        if size > len(data) - start - _CHUNK_OVERHEAD_BYTES:
            raise NotAPicture("a chunk is longer than its file")
        body_start = start + 8
        kind = data[start + 4 : body_start]
        (crc,) = struct.unpack_from(">I", data, body_start + size)
        if zlib.crc32(view[start + 4 : body_start + size]) != crc:
            raise NotAPicture(f"the checksum of a {kind!r} chunk is wrong")
        first = start == len(_SIGNATURE)
        if first != (kind == b"IHDR") or (first and size != _IHDR_BYTES) or (kind == b"IEND" and size):
            raise NotAPicture("not the chunks of a PNG file")
        yield _Chunk(kind, start, data[body_start : body_start + size])
        start = body_start + size + 4
    if start != len(data):
        raise NotAPicture("bytes behind the end of the picture")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _text_untrusted(chunk: _Chunk) -> bytes:
    text = chunk.body[len(KEYWORD) + 1 :]
    if len(text) > 4 * (MAX_BUNDLE_BYTES // 3 + 1):
        raise NotAPicture(f"a receipt of {len(text)} characters")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise NotAPicture("the receipt in the picture is not base64") from exc
