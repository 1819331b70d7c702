"""Any bytes into any parser give a message or RemoteProtocolError: the peer's fault, named, and nothing else."""

import dataclasses
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import BadSignature, MalformedMessage, RemoteProtocolError, UnknownCriticalField
from protocol.wire import conversation, identity, task, transfer
from protocol.wire.advert import (
    MAX_ADVERT_BYTES,
    MAX_LIFETIME_S,
    Advert,
    SignedAdvert,
    adverts_untrusted,
    known_untrusted,
)
from protocol.wire.canonical import MAX_DEPTH, decode_untrusted, encode
from protocol.wire.envelope import Domain, open_untrusted, seal
from protocol.wire.frames import FrameReader, pack
from protocol.wire.hello import Hello, LiveState, link_message_untrusted
from protocol.wire.lookup import Find
from protocol.wire.manifest import Manifest
from protocol.wire.offer import (
    MAX_AHEAD_US,
    MAX_OFFER_BYTES,
    Offer,
    ReplayedOffer,
    SignedOffer,
    check_addressed_untrusted,
)
from protocol.wire.receipt import MAX_FILE_BYTES, MAX_RECEIPT_BYTES, Receipt, Settled, SignedReceipt
from protocol.wire.statement import Statement
from protocol.wire.task import TaskMessage, task_message_untrusted, to_value

from . import samples
from .samples import NETWORK, PROVIDER_KEY, PROVIDER_SEED, REQUESTER, REQUESTER_KEY, REQUESTER_SEED

# What takes a decoded value, and what takes bytes.
OF_VALUES = {
    "link": link_message_untrusted,
    "state": LiveState.from_untrusted,
    "hello": Hello.from_untrusted,
    "task": task_message_untrusted,
    "advert": Advert.from_untrusted,
    "known": known_untrusted,
    "adverts": adverts_untrusted,
    "find": Find.from_untrusted,
    "offer": Offer.from_untrusted,
    "receipt": Receipt.from_untrusted,
}
OF_BYTES = {
    "canonical": decode_untrusted,
    "statement": Statement.from_untrusted,
    "manifest": Manifest.from_untrusted,
    "signed advert": lambda data: SignedAdvert.from_untrusted(data, network=NETWORK),
    "signed offer": lambda data: SignedOffer.from_untrusted(data, network=NETWORK),
    "signed receipt": lambda data: SignedReceipt.from_untrusted(data, network=NETWORK),
    "settled": lambda data: Settled.from_untrusted(data, network=NETWORK),
    "frames": lambda data: list(FrameReader().feed_untrusted(data)),
    "key": identity.check_key_untrusted,
    "peer id": lambda data: identity.key_of_untrusted(data.decode("latin-1")),
    "signature": lambda data: identity.verify_untrusted(data[:32], b"", data[32:]),
}
SIGNED = {  # name: bytes, parser, domain
    "advert": (samples.SIGNED_ADVERT.envelope.to_bytes(), OF_BYTES["signed advert"], PROVIDER_SEED),
    "offer": (samples.SIGNED_OFFER.envelope.to_bytes(), OF_BYTES["signed offer"], REQUESTER_SEED),
    "receipt": (samples.SIGNED_RECEIPT.envelope.to_bytes(), OF_BYTES["signed receipt"], PROVIDER_SEED),
    "settled": (samples.SETTLED_ENVELOPE.to_bytes(), OF_BYTES["settled"], REQUESTER_SEED),
}
VALUES = {  # of every map that a parser reads
    "hello": (samples.HELLO.to_value()[1], Hello.from_untrusted),
    "state": (samples.STATE.to_value(), LiveState.from_untrusted),
    "wait": (samples.WAIT.to_value()[1], lambda body: link_message_untrusted(["wait", body])),
    "ping": (samples.PING.to_value()[1], lambda body: link_message_untrusted(["ping", body])),
    "pong": (samples.PONG.to_value()[1], lambda body: link_message_untrusted(["pong", body])),
    "advert": (samples.ADVERT.to_value(), Advert.from_untrusted),
    "offer": (samples.OFFER.to_value(), Offer.from_untrusted),
    "receipt": (samples.RECEIPT.to_value(), Receipt.from_untrusted),
    "statement": (samples.STATEMENT.to_value(), lambda value: Statement.from_untrusted(encode(value))),
    "manifest": (samples.MANIFEST.to_value(), lambda value: Manifest.from_untrusted(encode(value))),
}
for number, message in enumerate(samples.TASK_MESSAGES):
    VALUES[f"{message.KIND} {number}"] = (
        to_value(message)[1],
        lambda body, kind=message.KIND: task_message_untrusted([kind, body]),
    )

by_name = pytest.mark.parametrize("name", VALUES)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=70)
    | st.text(max_size=20)
    | st.sampled_from([0, 1, 8, 256, b"", bytes(16), bytes(32), "", "done", "png", "busy", "queue"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def judged(parse, what):
    """What `parse` makes of it; None where it is the peer's fault."""
    try:
        return parse(what)
    except RemoteProtocolError:
        return None


# canonical values and frames


@settings(max_examples=300)
@given(values)
def test_a_value_survives_its_encoding(value):
    assert decode_untrusted(encode(value)) == value


@settings(max_examples=2000)
@given(st.binary(max_size=64))
def test_any_bytes_are_malformed_or_canonical(data):
    value = judged(decode_untrusted, data)
    assert value is None or encode(value) == data


@settings(max_examples=500)
@given(values, st.data())
def test_a_flipped_byte_gives_another_canonical_value_or_none(value, draw):
    data = bytearray(encode(value))
    data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    again = judged(decode_untrusted, bytes(data))
    assert again is None or encode(again) == bytes(data)


REFUSED = {
    "long-form integer 1": "cd 0001",
    "long-form string": "d9 01 61",
    "long-form map": "de 0000",
    "signed form of 200": "d1 00c8",
    "keys out of order": "82 a162 01 a161 02",
    "key repeated": "82 a161 01 a161 02",
    "a float": "cb 3ff0000000000000",
    "a short float": "ca 3f800000",
    "trailing byte": "01 02",
    "truncated": "c4 05 00",
    "extension": "d4 05 00",
    "timestamp": "d6 ff 00000000",
    "integer key": "81 01 02",
    "bytes as key": "81 c401 61 02",
    "list as key": "81 90 02",
    "nil key": "81 c0 02",
    "not UTF-8": "a1 ff",
    "surrogate": "a3 eda080",
    "never used": "c1",
    "empty": "",
    "deep nesting": "91" * 1100 + "c0",
    "just too deep": "91" * (MAX_DEPTH + 1) + "c0",
    "a list that claims 4 billion items": "dd ffffffff",
    "a map that claims 4 billion entries": "df ffffffff",
    "bytes that claim 4 GB": "c6 ffffffff",
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_canonical_is_refused(why):
    with pytest.raises(MalformedMessage):
        decode_untrusted(bytes.fromhex(REFUSED[why]))


def test_the_deepest_value_allowed_is_read():
    assert decode_untrusted(b"\x91" * MAX_DEPTH + b"\xc0")


@pytest.mark.parametrize(
    "bad", [1.5, (1,), {1: 2}, 1 << 64, -(1 << 63) - 1, object(), bytearray(b"a")], ids=repr
)
def test_what_has_no_encoding_is_our_own_bug(bad):
    with pytest.raises((TypeError, ValueError, AttributeError)):
        encode(bad)


@given(st.lists(values, max_size=4), st.integers(1, 40))
def test_frames_come_out_whole_whatever_the_pieces(messages, piece):
    wire, reader = b"".join(pack(message) for message in messages), FrameReader()
    heard = [got for i in range(0, len(wire), piece) for got in reader.feed_untrusted(wire[i : i + piece])]
    reader.close()
    assert heard == messages


def test_an_oversized_frame_is_refused_before_it_is_buffered():
    reader = FrameReader(at_most_bytes=100)
    with pytest.raises(MalformedMessage, match="101"):
        list(reader.feed_untrusted((101).to_bytes(4, "big")))


def test_half_a_frame_at_the_end_is_the_peers_fault():
    reader = FrameReader()
    assert list(reader.feed_untrusted(pack("abc")[:-1])) == []
    with pytest.raises(MalformedMessage, match="inside a message"):
        reader.close()


# every parser


@pytest.mark.parametrize("name", OF_BYTES)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_the_peers_fault(name, data):
    judged(OF_BYTES[name], data)


@pytest.mark.parametrize("name", OF_VALUES)
@given(
    value=values
    | st.tuples(st.sampled_from(["hello", "ping", "state", "offer", "ack", "known"]), values).map(list)
)
def test_any_value_is_a_message_or_the_peers_fault(name, value):
    judged(OF_VALUES[name], value)


def places(value, path=()):
    """Where anything stands in `value`."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def put(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@by_name
@given(draw=st.data())
def test_any_value_in_any_place_is_a_message_or_the_peers_fault(name, draw):
    value, parse = VALUES[name]
    path = draw.draw(st.sampled_from(list(places(value))))
    judged(parse, put(value, path, draw.draw(values)))


@by_name
def test_a_true_message_is_read_as_it_was_written(name):
    value, parse = VALUES[name]
    message = parse(value)
    again = to_value(message)[1] if isinstance(message, TaskMessage) else message.to_value()
    assert again in (value, [name, value])


@by_name
def test_a_field_that_is_missing_is_named(name):
    value, parse = VALUES[name]
    for key in value:
        rest = {other: value[other] for other in value if other != key}
        if key.startswith("~"):
            parse(rest)
        else:
            with pytest.raises(MalformedMessage, match=key):
                parse(rest)


def maps(value, path=()):
    return [path for path in places(value) if isinstance(at(value, path), dict) and path[-1:] != ("limits",)]


def at(value, path):
    for key in path:
        value = value[key]
    return value


@by_name
def test_an_unknown_field_is_critical_unless_it_says_otherwise(name):
    value, parse = VALUES[name]
    for path in maps(value):
        parse(put(value, path, at(value, path) | {"~new": [1, {"a": None}]}))
        with pytest.raises(UnknownCriticalField, match="new"):
            parse(put(value, path, at(value, path) | {"new": None}))


@by_name
def test_no_number_is_true(name):
    value, parse = VALUES[name]
    for path in places(value):
        if type(at(value, path)) is int:
            with pytest.raises(MalformedMessage):
                parse(put(value, path, True))
            with pytest.raises(MalformedMessage):
                parse(put(value, path, -1))


@by_name
def test_no_text_has_a_control_character_but_lines_of_a_prompt(name):
    value, parse = VALUES[name]
    for path in places(value):
        if isinstance(at(value, path), str) and path[0] not in {"kinds", "devices"}:
            with pytest.raises(MalformedMessage):
                parse(put(value, path, "a\x1b[2Jb"))


def test_the_lines_of_a_prompt_stay():
    two = dataclasses.replace(samples.STATEMENT, prompt="a\nb")
    assert Statement.from_untrusted(two.to_bytes()) == two


def test_what_is_shown_has_no_bidi_marks_and_an_end():
    value = samples.ADVERT.to_value() | {"name": "\u202eevil\u2066" + "x" * 200}
    assert Advert.from_untrusted(value).name == "evil" + "x" * 60


# statements


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("steps", 0),
        ("steps", 1001),
        ("width", 0),
        ("width", 257),
        ("height", 8200),
        ("guidance_millionths", 10**9),
        ("seed", 1 << 32),
        ("sampler", "ancestral"),
        ("precision", "int4"),
        ("kind", "video"),
        ("noise", "noise/2"),
        ("model", bytes(31)),
        ("salt", bytes(15)),
        ("prompt", "x" * 10_000),
        ("adapter", [[bytes(32), True]]),
        ("adapter", [[bytes(32), 10_000_001]]),
        ("adapters", [[bytes(32), 1]] * 9),
        ("inputs", [{}]),
        ("outputs", []),
        ("outputs", [{"role": "image", "codec": "gif"}]),
    ],
)
def test_a_statement_that_cannot_be_is_refused_by_name(field, wrong):
    with pytest.raises(MalformedMessage, match=field):
        Statement.from_untrusted(
            encode(samples.STATEMENT.to_value() | {"adapters" if field == "adapter" else field: wrong})
        )


def test_a_prompt_of_ten_megabytes_is_refused_unread():
    with pytest.raises(MalformedMessage, match="limit"):
        Statement.from_untrusted(encode(samples.STATEMENT.to_value() | {"prompt": "x" * (10 << 20)}))


def test_the_hash_of_a_statement_is_of_the_bytes_its_author_wrote():
    newer = encode(samples.STATEMENT.to_value() | {"~hint": 1})
    read = Statement.from_untrusted(newer)
    assert read == samples.STATEMENT
    assert read.to_bytes() == newer
    assert read.hash != samples.STATEMENT.hash
    offer = dataclasses.replace(samples.OFFER, statement=read)
    assert Offer.from_untrusted(offer.to_value()).statement.hash == read.hash
    changed = dataclasses.replace(read, seed=43)
    assert Statement.from_untrusted(changed.to_bytes()).seed == 43


# envelopes


@pytest.mark.parametrize("name", SIGNED)
def test_a_flipped_bit_anywhere_in_a_signed_message_is_found(name):
    data, parse, _ = SIGNED[name]
    assert parse(data)
    for index in range(len(data)):
        flipped = bytearray(data)
        flipped[index] ^= 1 << index % 8
        with pytest.raises(RemoteProtocolError):
            parse(bytes(flipped))


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("change", [{"network": "other"}, {"kind": "other"}, {"version": 2}], ids=str)
def test_a_signature_for_another_domain_is_none(name, change):
    data, parse, seed = SIGNED[name]
    right = Domain(NETWORK, name)
    payload = open_untrusted(data, domain=right).value_untrusted()
    assert parse(seal(payload, domain=right, private_key=seed).to_bytes())
    wrong = dataclasses.replace(right, **change)
    with pytest.raises(BadSignature):
        parse(seal(payload, domain=wrong, private_key=seed).to_bytes())


def test_someone_elses_key_on_a_signature_is_refused():
    envelope = dataclasses.replace(samples.SIGNED_ADVERT.envelope, key=REQUESTER_KEY)
    with pytest.raises(BadSignature):
        SignedAdvert.from_untrusted(envelope.to_bytes(), network=NETWORK)


def test_a_signature_with_the_order_added_is_refused():
    signature = samples.SIGNED_ADVERT.envelope.signature
    order = 2**252 + 27742317777372353535851937790883648493
    other = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    envelope = dataclasses.replace(samples.SIGNED_ADVERT.envelope, signature=other)
    with pytest.raises(BadSignature, match="canonical"):
        SignedAdvert.from_untrusted(envelope.to_bytes(), network=NETWORK)


SMALL_ORDER = [  # every encoding of the points of order 1, 2, 4 and 8
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    # and those that are not canonical besides
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_keys_under_which_one_signature_fits_many_messages_are_refused(key):
    key = bytes.fromhex(key)
    forged = (1).to_bytes(32, "little") + bytes(32)  # R the neutral point, S zero
    with pytest.raises(BadSignature, match=r"small order|canonical key"):
        identity.verify_untrusted(key, b"anything", forged)


def test_a_peer_id_is_its_key():
    assert identity.key_of_untrusted(REQUESTER) == REQUESTER_KEY
    for wrong in ("1" + REQUESTER, REQUESTER[:-1], REQUESTER[1:], REQUESTER + "1", "", "z" * 52, "0" * 52):
        with pytest.raises(MalformedMessage):
            identity.key_of_untrusted(wrong)


# offers


HERE = {"provider": PROVIDER_KEY, "boot_id": samples.BOOT_ID, "stream_peer": REQUESTER, "now_us": 10_000_000}


def test_an_offer_is_for_this_provider_now():
    check_addressed_untrusted(samples.SIGNED_OFFER, **HERE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"provider": REQUESTER_KEY},
        {"stream_peer": samples.PROVIDER},
        {"boot_id": bytes(16)},
        {"now_us": samples.OFFER.expires_us},
        {"now_us": samples.OFFER.expires_us + 10**9},
    ],
    ids=str,
)
def test_a_replayed_offer_is_refused(elsewhere):
    with pytest.raises(ReplayedOffer):
        check_addressed_untrusted(samples.SIGNED_OFFER, **HERE | elsewhere)


def test_an_offer_that_would_have_to_be_remembered_too_long_is_refused():
    far = dataclasses.replace(samples.OFFER, expires_us=HERE["now_us"] + MAX_AHEAD_US + 1)
    with pytest.raises(ReplayedOffer, match="too far"):
        check_addressed_untrusted(SignedOffer.sign(far, network=NETWORK, private_key=REQUESTER_SEED), **HERE)


# the specification

SPECIFICATION = (pathlib.Path(__file__).parent.parent / "protocol" / "README.md").read_text()


@by_name
def test_every_field_is_in_the_specification(name):
    value, _ = VALUES[name]
    for path in maps(value):
        for field in at(value, path):
            assert f"`{field}`" in SPECIFICATION


@pytest.mark.parametrize(
    "word", sorted(task.REFUSALS | task.FAILURES | task.FAULTS | task.PHASES | conversation.KINDS)
)
def test_every_word_of_a_task_is_in_the_specification(word):
    assert f"`{word}`" in SPECIFICATION


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (transfer.CHUNK_BYTES, "65,400"),
        (transfer.QUEUE_US // 1000, "5 ms"),
        (transfer.START_WINDOW_BYTES >> 10, "256 KiB"),
        (MAX_ADVERT_BYTES, "4,096 bytes"),
        (MAX_OFFER_BYTES, "66,560"),
        (task.MAX_TASK_MESSAGE_BYTES >> 10, "128 KiB"),
        (task.MAX_SPANS, "1,032"),
        (task.MAX_STEP_US, "600,000,000"),
        (MAX_FILE_BYTES, "268,435,456"),
        (MAX_RECEIPT_BYTES, "1,024 bytes"),
        (MAX_AHEAD_US // 1_000_000, "600 s"),
        (conversation.HEARTBEAT_US // 1000, "250 ms"),
        (conversation.ACK_WITHIN_US // 1_000_000, "20 s"),
        (MAX_LIFETIME_S, "1 to 600"),
    ],
)
def test_a_bound_in_the_specification_is_the_bound_in_the_code(number, said):
    assert said in SPECIFICATION
    assert f"{number:,}" in said


# sizes


def test_a_receipt_with_everything_in_it_stays_under_its_limit():
    most = dataclasses.replace(
        samples.RECEIPT,
        environment="x" * 128,
        trace_root=bytes(32),
        trace_leaves=2**32 - 1,
        file_bytes=256 << 20,
    )
    SignedReceipt.sign(most, network=NETWORK, private_key=PROVIDER_SEED)


def test_an_advert_that_would_be_too_large_is_not_signed():
    many = dataclasses.replace(samples.ADVERT, models=samples.ADVERT.models * 40)
    with pytest.raises(ValueError, match="advertise fewer"):
        SignedAdvert.sign(many, network=NETWORK, private_key=PROVIDER_SEED)


def test_a_provider_states_its_limits():
    with pytest.raises(MalformedMessage, match="limits"):
        Advert.from_untrusted(samples.ADVERT.to_value() | {"limits": None})


@pytest.mark.parametrize("native", [[0, 256], [256], [256, 1 << 20], [True, 256], "ab"])
def test_a_native_size_is_a_size(native):
    model = samples.ADVERT.models[0].to_value() | {"native": native}
    with pytest.raises(MalformedMessage):
        Advert.from_untrusted(samples.ADVERT.to_value() | {"models": [model]})


def test_a_coordinate_and_a_depth_go_through_an_advert_and_a_lookup():
    read = SignedAdvert.from_untrusted(samples.SHARDED_ADVERT.envelope.to_bytes(), network=NETWORK).advert
    assert (read.coordinate, read.shard_bits) == (samples.COORDINATE, 3)
    assert Find.from_untrusted(samples.FIND.to_value()) == samples.FIND
    assert Advert.from_untrusted(samples.ADVERT.to_value()) == samples.ADVERT


@pytest.mark.parametrize("data", [b"", bytes(5), bytes(21), b"\xff" * 20, bytes(64)])
def test_a_coordinate_that_is_not_understood_is_none_and_the_advert_stays_good(data):
    told = samples.SHARDED_ADVERT.advert.to_value() | {"~coordinate": data}
    assert Advert.from_untrusted(told) == dataclasses.replace(samples.SHARDED_ADVERT.advert, coordinate=None)


@pytest.mark.parametrize(
    "wrong", [{"at_most": 33}, {"at_most": 0}, {"model": b"short"}, {"~place": b"short"}, {"more": 1}]
)
def test_a_lookup_beyond_its_bounds_is_malformed(wrong):
    kind, body = samples.FIND.to_value()
    with pytest.raises(RemoteProtocolError):
        Find.from_untrusted([kind, body | wrong])
