"""noise/1: vectors, the table's hash and shape, and numbers that are Gaussian enough to render from."""

import hashlib
import itertools
import struct

import pytest

from protocol.wire.noise import SCALE_BITS, TABLE_SIZE, normals, table

TABLE_SHA256 = (
    "aa972818987b8247e005f4537b635a99349e0c5b0a00fab3367d75fbaa95f64a"  # of int32 little-endian entries
)

VECTORS = [  # seed, purpose, count, little-endian fp32
    (0, "initial", 8, "003e3b3e10e935bf689eb1bf30317a3f88dfbe3f80fc1a3e80e9343f8045f33e"),
    (
        4294967295,
        "audit",
        9,  # the last number is the first of a second block
        "00eb7d3d50502fbf805af6bd00b0b1be000562bde8d2b5bfb021763f6005bebe807ea33e",
    ),
]


def numbers(seed, count, purpose="initial"):
    return struct.unpack(f"<{count}f", normals(seed, count, purpose))


def test_the_table_is_the_one_in_the_specification():
    assert hashlib.sha256(struct.pack(f"<{TABLE_SIZE}i", *table())).hexdigest() == TABLE_SHA256
    assert table()[:2] == (-2720338, -2504404)
    assert table()[2047:2049] == (-227, 227)


def test_the_table_is_odd_and_rises():
    assert all(table()[TABLE_SIZE - 1 - i] == -table()[i] for i in range(TABLE_SIZE))
    assert all(low < high for low, high in itertools.pairwise(table()))


def test_the_sum_of_two_entries_has_variance_one_and_is_exact_in_fp32():
    variance = 2 * sum(entry**2 for entry in table()) / TABLE_SIZE / 4**SCALE_BITS
    assert variance == pytest.approx(1, abs=1e-7)
    assert 2 * max(table()) < 1 << 24


@pytest.mark.parametrize(("seed", "purpose", "count", "expected"), VECTORS)
def test_vectors(seed, purpose, count, expected):
    assert normals(seed, count, purpose).hex() == expected


def test_a_block_is_the_hash_that_the_specification_describes():
    block = hashlib.sha256(
        b"nearlight/noise/1\0initial\0" + bytes.fromhex("000000070000000000000001")
    ).digest()
    words = struct.unpack(">8I", block)
    expected = [(table()[w & 0xFFF] + table()[w >> 12 & 0xFFF]) / 2**20 for w in words]
    assert numbers(7, 16)[8:] == tuple(expected)


def test_a_shorter_request_is_a_prefix_of_a_longer_one():
    assert normals(5, 1001)[: 4 * 13] == normals(5, 13)
    assert normals(5, 0) == b""


def test_seeds_and_purposes_give_other_numbers():
    streams = {normals(1, 64), normals(2, 64), normals(1, 64, "other"), normals(1 << 24, 64)}
    assert len(streams) == 4


def test_many_numbers_are_gaussian():
    count = 1 << 16
    sample = numbers(20, count)
    assert sum(sample) / count == pytest.approx(0, abs=0.02)
    assert sum(x**2 for x in sample) / count == pytest.approx(1, abs=0.03)
    assert sum(x**4 for x in sample) / count == pytest.approx(3, abs=0.2)
    assert sum(abs(x) < 1 for x in sample) / count == pytest.approx(0.6827, abs=0.01)


@pytest.mark.parametrize(
    ("seed", "count", "purpose"), [(-1, 1, "a"), (1 << 32, 1, "a"), (0, -1, "a"), (0, 1, ""), (0, 1, "\0")]
)
def test_what_is_outside_its_range_is_refused(seed, count, purpose):
    with pytest.raises(ValueError, match=r"a seed|a count|a purpose"):
        normals(seed, count, purpose)
