"""`noise/1`: from a seed to Gaussian numbers, bit-equal on every device.  (README, "noise/1".)

Block j (j = 0, 1, ...) of a stream is SHA-256(TAG + purpose + 0x00 + seed as u32 + j as u64), integers
big-endian: eight big-endian words w of 32 bits, one number each:

    a = w & 0xfff    b = (w >> 12) & 0xfff    number = (TABLE[a] + TABLE[b]) / 2^20

TABLE[i] = round(2^20 * c * z_i / sqrt(2)), where z_i is the standard normal quantile of (i + 1/2) / 4096 and c
brings the variance of the 4,096 values c * z_i to 1.  A sum stays below 2^24: the division is exact in fp32.
"""

import functools
import hashlib
import math
import struct
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from statistics import NormalDist

from .fields import U32

TAG = b"nearlight/noise/1\0"
TABLE_BITS = 12
TABLE_SIZE = 1 << TABLE_BITS
SCALE_BITS = 20
WORDS_PER_BLOCK = hashlib.sha256().digest_size // 4
MAX_PURPOSE_BYTES = 64

# Working precision of the table; an entry would need 7 to be rounded, unless it lay next to a half.
_DIGITS = 50
_FIXED_BITS = 160


def normals(seed: int, count: int, purpose: str = "initial") -> bytes:
    """The first `count` numbers of the stream (seed, purpose), as little-endian fp32: 4 x `count` bytes.

    `seed` is a uint32, `purpose` at most 64 ASCII characters without NUL; ValueError otherwise.
    """
    if not 0 <= seed <= U32:
        raise ValueError(f"a seed is from 0 to {U32}")
    if count < 0:
        raise ValueError("a count is not negative")
    label = purpose.encode("ascii")
    if not 0 < len(label) <= MAX_PURPOSE_BYTES or 0 in label:
        raise ValueError(f"a purpose is 1 to {MAX_PURPOSE_BYTES} characters without NUL")
    start = hashlib.sha256(TAG + label + b"\0" + seed.to_bytes(4, "big"))
    blocks = []
    for index in range(-(-count // WORDS_PER_BLOCK)):
        block = start.copy()
        block.update(index.to_bytes(8, "big"))
        blocks.append(block.digest())
    words = struct.unpack(f">{count}I", b"".join(blocks)[: 4 * count])
    value = _values()
    mask = TABLE_SIZE - 1
    return struct.pack(f"<{count}f", *[value[w & mask] + value[(w >> TABLE_BITS) & mask] for w in words])


@functools.cache
def table() -> tuple[int, ...]:
    """TABLE: 4,096 integers, TABLE[4095 - i] == -TABLE[i].  Integer and decimal arithmetic decide its entries."""
    with localcontext(Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN)):
        upper = [
            _quantile(2 * i + 1 + TABLE_SIZE) for i in range(TABLE_SIZE // 2)
        ]  # of (i + 1/2 + 2048) / 4096
        mean_square = sum((z * z for z in upper), Decimal(0)) / len(upper)
        scale = (1 << SCALE_BITS) / (2 * mean_square).sqrt()
        half = [int((z * scale).to_integral_value()) for z in upper]
    return (*(-entry for entry in reversed(half)), *half)


@functools.cache
def _values() -> tuple[float, ...]:
    return tuple(entry / (1 << SCALE_BITS) for entry in table())  # exact: a power of two


def _quantile(numerator: int) -> Decimal:
    """The standard normal quantile of numerator / 8192, to more than 25 digits.

    A double's estimate, wrong by less than 1e-14, and one Newton step, which squares the error.
    """
    probability = Decimal(numerator) / (2 * TABLE_SIZE)
    estimate = NormalDist().inv_cdf(numerator / (2 * TABLE_SIZE))
    fraction, power = estimate.as_integer_ratio()
    z = (fraction << _FIXED_BITS) // power
    square = z * z >> _FIXED_BITS
    # Phi(z) = 1/2 + phi(z) * (z + z^3 / 3 + z^5 / (3 * 5) + ...), in fixed point
    term, total, odd = z, z, 1
    while term:
        odd += 2
        term = (term * square >> _FIXED_BITS) // odd
        total += term
    exact = Decimal(estimate)
    density = (-exact * exact / 2).exp() / _root_two_pi()
    series = Decimal(total) / (1 << _FIXED_BITS)
    return exact + (probability - Decimal("0.5")) / density - series


@functools.cache
def _root_two_pi() -> Decimal:
    """sqrt(2 pi): pi by Machin's formula, in integers."""
    one = 1 << 2 * _FIXED_BITS
    pi = 4 * (4 * _arctan_inverse(5, one) - _arctan_inverse(239, one))
    return Decimal(math.isqrt(2 * pi * one)) / one


def _arctan_inverse(n: int, one: int) -> int:
    power = one // n
    total, sign, odd = power, 1, 1
    while power:
        power //= n * n
        odd += 2
        sign = -sign
        total += sign * (power // odd)
    return total
