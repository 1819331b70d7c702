"""Who a peer is: an Ed25519 public key, written as a libp2p peer id.  (README section 2.)"""

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import BadSignature, MalformedMessage

KEY_BYTES = 32
SIGNATURE_BYTES = 64
# identity multihash (0x00, 36 bytes) of the protobuf PublicKey{type: Ed25519, data: 32 bytes}: libp2p peer-ids spec.
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_ORDER_8_Y = 2707385501144840649318225287225658788936804267575313519463743609750303402022
# The y of every point of order 1, 2, 4 or 8: under such a key one signature fits many messages.  They are the roots of
# y = 1, y = -1, y = 0 and d*y^4 + 2*y^2 - 1 = 0 on edwards25519 (RFC 8032 section 5.1).
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})


def public_key_of(private_key: bytes) -> bytes:
    return _loaded(private_key)[1]


def sign(private_key: bytes, message: bytes) -> bytes:
    return _loaded(private_key)[0].sign(message)


@lru_cache(maxsize=8)  # a peer signs with one key, and loading it costs as much as signing
def _loaded(private_key: bytes) -> tuple[Ed25519PrivateKey, bytes]:
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    return key, key.public_key().public_bytes_raw()


def verify_untrusted(key: bytes, message: bytes, signature: bytes) -> None:
    """Returns if `signature` is `key`'s on `message`; BadSignature otherwise."""
    check_key_untrusted(key)
    if len(signature) != SIGNATURE_BYTES or int.from_bytes(signature[32:], "little") >= _L:
        raise BadSignature("not a canonical signature")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as exc:
        raise BadSignature("the signature does not fit") from exc


def check_key_untrusted(key: bytes) -> None:
    """Refuses keys that are not 32 bytes, not canonical, or of small order (BadSignature)."""
    if len(key) != KEY_BYTES:
        raise BadSignature(f"a key of {len(key)} bytes")
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)
    if y >= _P:
        raise BadSignature("not a canonical key")
    if y in _SMALL_ORDER_Y:
        raise BadSignature("a key of small order")


@lru_cache(maxsize=4096)  # as many as a directory knows: an advert names its peer several times
def peer_id_of(key: bytes) -> str:
    """The base58 peer id ("12D3KooW...") of a public key."""
    data = _PEER_ID_PREFIX + key
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def key_of_untrusted(peer_id: str) -> bytes:
    """The public key inside a peer id; MalformedMessage if it is not an Ed25519 peer id."""
    if not 40 <= len(peer_id) <= 64 or any(char not in _BASE58 for char in peer_id):
        raise MalformedMessage("not a peer id")
    number = 0
    for char in peer_id:
        number = number * 58 + _BASE58.index(char)
    size = len(_PEER_ID_PREFIX) + KEY_BYTES
    if number >> (8 * size):
        raise MalformedMessage("not a peer id")
    data = number.to_bytes(size, "big")
    if not data.startswith(_PEER_ID_PREFIX) or peer_id_of(data[-KEY_BYTES:]) != peer_id:
        raise MalformedMessage("not an Ed25519 peer id")
    return data[-KEY_BYTES:]
