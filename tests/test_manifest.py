"""A model id is the id of its files: of nothing else, and of no file outside its folder."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MalformedMessage, RemoteProtocolError
from protocol.wire.canonical import encode
from protocol.wire.manifest import (
    CHUNK_BYTES,
    LEAF_TAG,
    MAX_FILES,
    NODE_TAG,
    FileHasher,
    Manifest,
    ManifestFile,
    chunk_hashes,
    normalise_config,
)


def rfc_6962_root(leaves):
    """The definition, as RFC 6962 section 2.1 writes it."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(NODE_TAG + rfc_6962_root(leaves[:split]) + rfc_6962_root(leaves[split:])).digest()


def root_of(*pieces):
    hasher = FileHasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.root()


@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 4, 5, 7, 8, 11])
@pytest.mark.parametrize("rest", [0, 1])
def test_the_tree_has_the_shape_of_rfc_6962(chunks, rest):
    data = b"".join(bytes([i]) * CHUNK_BYTES for i in range(chunks)) + b"x" * rest
    assert root_of(data) == rfc_6962_root(chunk_hashes(data))


def test_the_root_does_not_depend_on_the_pieces():
    data = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"tail"
    odd = [data[i : i + 300_001] for i in range(0, len(data), 300_001)]
    assert root_of(*odd) == root_of(data) == root_of(b"", data, b"")


def test_a_file_of_no_bytes_has_one_empty_leaf():
    assert root_of() == hashlib.sha256(LEAF_TAG).digest() == chunk_hashes(b"")[0]


def test_a_leaf_is_no_node():
    two = b"a" * CHUNK_BYTES + b"b"
    left, right = chunk_hashes(two)
    assert root_of(left + right) != root_of(two)


def manifest(*paths, **changes):
    files = tuple(ManifestFile(path, 1, b"r" * 32) for path in paths)
    return Manifest(
        **{"family": "sd", "pipeline": "StableDiffusionPipeline", "variant": "", "files": files} | changes
    )


def test_round_trip_and_id():
    one = manifest("model_index.json", "unet/a.safetensors")
    assert Manifest.from_untrusted(one.to_bytes()) == one
    assert one.id == hashlib.sha256(b"nearlight/manifest/1\0" + one.to_bytes()).digest()
    assert one.id != manifest("model_index.json", "unet/a.safetensors", variant="fp16").id


def bytes_with(*paths):
    return encode(manifest("a").to_value() | {"files": [[path, 1, b"r" * 32] for path in paths]})


@pytest.mark.parametrize(
    "paths",
    [
        ["/etc/passwd"],
        [".."],
        ["../a"],
        ["a/../b"],
        ["a/./b"],
        ["a//b"],
        ["a/"],
        [""],
        ["a\\b"],
        ["C:a"],
        ["a\nb"],
        ["a\0"],
        ["a\u202eb"],
        ["é"],
        ["a."],
        ["a "],
        ["x" * 256],
        ["a", "a"],
        ["A", "a"],
        ["Unet/x", "unet/X"],
        ["a", "a/b"],
        ["b", "a"],
        [],
    ],
)
def test_paths_that_are_refused(paths):
    with pytest.raises(MalformedMessage):
        Manifest.from_untrusted(bytes_with(*paths))


def test_too_many_files_are_refused():
    paths = sorted(f"f{i}" for i in range(MAX_FILES))
    assert len(Manifest.from_untrusted(bytes_with(*paths)).files) == MAX_FILES
    with pytest.raises((MalformedMessage, ValueError)):
        Manifest.from_untrusted(bytes_with(*sorted([*paths, "g"])))


@pytest.mark.parametrize(
    "entry", [["a", True, b"r" * 32], ["a", -1, b"r" * 32], ["a", 1, b"r"], ["a", 1], "a", [1, 1, b""]]
)
def test_entries_that_are_refused(entry):
    with pytest.raises(MalformedMessage):
        Manifest.from_untrusted(encode(manifest("a").to_value() | {"files": [entry]}))


def test_a_config_loses_its_paths_and_versions_at_every_depth():
    config = {
        "b": 1,
        "a": {"_name_or_path": "/home/x", "k": [True, None]},
        "transformers_version": "5",
        "dtype": "fp16",
    }
    assert normalise_config(json.dumps(config, indent=2).encode()) == b'{"a":{"k":[true,null]},"b":1}'


@pytest.mark.parametrize(  # RFC 8785 appendix B, and numbers that configs have
    ("written", "canonical"),
    [
        ("0", "0"),
        ("-0.0", "0"),
        ("5e-324", "5e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("9007199254740992", "9007199254740992"),
        ("295147905179352830000", "295147905179352830000"),
        ("9.999999999999997e22", "9.999999999999997e+22"),
        ("1e23", "1e+23"),
        ("999999999999999900000", "999999999999999900000"),
        ("1e21", "1e+21"),
        ("9.999999999999997e-7", "9.999999999999997e-7"),
        ("0.000001", "0.000001"),
        ("333333333.33333325", "333333333.33333325"),
        ("-0.0000033333333333333333", "-0.0000033333333333333333"),
        ("1424953923781206.2", "1424953923781206.2"),
        ("1e-05", "0.00001"),
        ("0.00085", "0.00085"),
        ("1.0", "1"),
        ("120", "120"),
        ("1000000000000000019884624838656", "1e+30"),
    ],
)
def test_numbers_are_written_as_in_rfc_8785(written, canonical):
    assert normalise_config(written.encode()).decode() == canonical


def test_keys_are_sorted_as_in_rfc_8785():
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\u00f6"]  # section 3.2.3
    assert list(json.loads(normalise_config(json.dumps(dict.fromkeys(keys)).encode()))) == [
        "\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33",
    ]  # fmt: skip


REFUSED_CONFIGS = [
    *(b"", b"{", b'{"a":1,"a":2}', b"NaN", b"[Infinity]", b"1e999", b'"\\ud800"', b'{"\\ud800":1}', b"\xff"),
    *(b"[" * 100_000, b"9" * 5000, b"[" * 40 + b"]" * 40, b" " * (1 << 20) + b"1"),
]


@pytest.mark.parametrize("text", REFUSED_CONFIGS)
def test_configs_that_are_refused(text):
    with pytest.raises(MalformedMessage):
        normalise_config(text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(json_values)
def test_a_normalised_config_is_its_own_normal_form(value):
    try:
        once = normalise_config(json.dumps(value).encode())
    except MalformedMessage:  # an integer beyond the doubles
        return
    assert normalise_config(once) == once


@given(st.binary(max_size=64))
def test_any_bytes_are_a_config_or_the_peers_fault(data):
    for parse in (normalise_config, Manifest.from_untrusted):
        try:
            parse(data)
        except RemoteProtocolError:
            pass
