"""The wire as annotated hex.  A change to one of its files is a change to the wire.

`python -m tests.test_vectors` writes the files anew.
"""

import pathlib

import msgpack
import pytest

from .samples import PROVIDER, PROVIDER_KEY, PROVIDER_SEED, REQUESTER, REQUESTER_KEY, REQUESTER_SEED, VECTORS

FOLDER = pathlib.Path(__file__).parent / "vectors"
BYTES_PER_LINE = 32


def spelled(data, depth=0):
    """Lines of (hex, what it is): one for each value of a canonical encoding."""
    unpacker = msgpack.Unpacker(None, raw=False, max_buffer_size=len(data), strict_map_key=True)
    unpacker.feed(data)

    def value(depth):
        start = unpacker.tell()
        kind = data[start]
        if kind & 0xF0 == 0x80 or kind in (0xDE, 0xDF):
            entries = unpacker.read_map_header()
            yield data[start : unpacker.tell()], depth, f"map of {entries}"
            for _ in range(entries):
                yield from value(depth + 1)
                yield from value(depth + 2)
        elif kind & 0xF0 == 0x90 or kind in (0xDC, 0xDD):
            items = unpacker.read_array_header()
            yield data[start : unpacker.tell()], depth, f"list of {items}"
            for _ in range(items):
                yield from value(depth + 1)
        else:
            read = unpacker.unpack()
            said = f"{len(read)} bytes" if isinstance(read, bytes) else repr(read)
            yield data[start : unpacker.tell()], depth, said

    yield from value(depth)


def annotated(what, data):
    lines = [f"# {what}", f"# requester {REQUESTER}, provider {PROVIDER}"]
    framed = int.from_bytes(data[:4], "big") == len(data) - 4
    if framed:
        lines.append(f"{data[:4].hex():<{2 * BYTES_PER_LINE}}  # frame of {len(data) - 4} bytes")
    for part, depth, said in spelled(data[4:] if framed else data):
        rows = [part[i : i + BYTES_PER_LINE] for i in range(0, len(part), BYTES_PER_LINE)]
        lines.append(f"{rows[0].hex():<{2 * BYTES_PER_LINE}}  # {'  ' * depth}{said}")
        lines += [row.hex() for row in rows[1:]]
    return "\n".join(lines) + "\n"


def keys():
    return (
        "# Ed25519 seeds and public keys of the vectors (README section 2)\n"
        f"{REQUESTER_SEED.hex()}  # requester: seed\n{REQUESTER_KEY.hex()}  # public key, peer id {REQUESTER}\n"
        f"{PROVIDER_SEED.hex()}  # provider: seed\n{PROVIDER_KEY.hex()}  # public key, peer id {PROVIDER}\n"
    )


def files():
    return {"keys.hex": keys()} | {f"{name}.hex": annotated(*vector) for name, vector in VECTORS.items()}


@pytest.mark.parametrize("name", files())
def test_the_file_is_what_the_keys_give(name):
    assert (FOLDER / name).read_text() == files()[name]


@pytest.mark.parametrize("name", VECTORS)
def test_the_annotated_hex_is_the_message(name):
    text = (FOLDER / f"{name}.hex").read_text()
    assert bytes.fromhex("".join(line.split("#")[0] for line in text.splitlines())) == VECTORS[name][1]


def test_there_is_no_file_more():
    assert {path.name for path in FOLDER.iterdir()} == set(files())


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text)
