import hashlib
import io
import random
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from peer.picture import (
    MAX_BUNDLE_BYTES,
    Bundle,
    NotAPicture,
    UnreadablePicture,
    check_picture_untrusted,
    embed,
    strip,
    verify_file,
)
from protocol.errors import RemoteProtocolError
from protocol.wire.identity import peer_id_of, public_key_of
from protocol.wire.offer import Offer, SignedOffer
from protocol.wire.receipt import Receipt, SignedReceipt, pixel_hash
from protocol.wire.statement import Statement

WIDTH, HEIGHT = 24, 16
RGB = random.Random(7).randbytes(3 * WIDTH * HEIGHT)
PROVIDER, REQUESTER = b"\x01" * 32, b"\x02" * 32
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pillow_png(rgb=RGB, size=(WIDTH, HEIGHT), mode="RGB", **options):
    file = io.BytesIO()
    Image.frombytes("RGB", size, rgb).convert(mode).save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width=WIDTH, height=HEIGHT, rest=(8, 2, 0, 0, 0)):
    return chunk(b"IHDR", struct.pack(">II", width, height) + bytes(rest))


def rows(rgb=RGB, width=WIDTH, filter_type=0):
    return b"".join(bytes([filter_type]) + rgb[at : at + 3 * width] for at in range(0, len(rgb), 3 * width))


def png_of(*chunks):
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


PNG = pillow_png()
PLAIN = png_of(header(), chunk(b"IDAT", zlib.compress(rows())))

STATEMENT = Statement(
    model=b"\x05" * 32,
    prompt="a canary",
    width=WIDTH,
    height=HEIGHT,
    steps=4,
    guidance_millionths=0,
    sampler="euler",
    seed=7,
    salt=b"\x06" * 16,
    precision="fp32",
)


def receipt_for(png=PNG, rgb=RGB, **changes):
    fields = {
        "attempt": b"\x07" * 16,
        "statement": STATEMENT.hash,
        "requester": public_key_of(REQUESTER),
        "outcome": "done",
        "steps_done": 4,
        "outputs_root": bytes(32),
        "outputs": 1,
        "pixels": pixel_hash(rgb, width=WIDTH, height=HEIGHT),
        "file": hashlib.sha256(png).digest(),
        "file_bytes": len(png),
        "sigmas": bytes(32),
        "environment": "test",
        "queue_us": 0,
        "load_us": 0,
        "render_us": 1,
        "finished_us": 1,
        "retain_s": 60,
    }
    return SignedReceipt.sign(
        Receipt(**fields | changes), network="test", private_key=PROVIDER
    ).envelope.to_bytes()


def offer(**changes):
    fields = {
        "statement": STATEMENT,
        "provider": public_key_of(PROVIDER),
        "boot_id": b"\x08" * 16,
        "attempt": b"\x07" * 16,
        "expires_us": 1,
        "max_wait_us": None,
    }
    signed = SignedOffer.sign(Offer(**fields | changes), network="test", private_key=REQUESTER)
    return signed.envelope.to_bytes()


def bundle(**changes):
    return Bundle(**{"network": "test", "receipt": receipt_for()} | changes).to_bytes()


@pytest.fixture
def saved(tmp_path):
    def save(data):
        path = tmp_path / "picture.png"
        path.write_bytes(data)
        return path

    return save


# embed, strip


@pytest.mark.parametrize("png", [PNG, PLAIN, pillow_png(mode="P"), embed(PNG, b"an older one")])
@pytest.mark.parametrize("text", [b"", b"\0\xff", bundle(), b"x" * MAX_BUNDLE_BYTES])
def test_a_picture_comes_back_byte_for_byte(png, text):
    carrying = embed(png, text)
    assert strip(carrying) == (png, text)
    assert (
        Image.open(io.BytesIO(carrying)).convert("RGB").tobytes()
        == Image.open(io.BytesIO(png)).convert("RGB").tobytes()
    )


def test_a_picture_without_a_receipt_is_left_alone():
    assert strip(PNG) == (PNG, None)
    other = pillow_png(pnginfo=_info("title", "sunset"))
    assert strip(other) == (other, None)


def test_what_could_not_be_found_again_is_not_embedded():
    with pytest.raises(ValueError, match="to embed"):
        embed(PNG, b"x" * (MAX_BUNDLE_BYTES + 1))
    with pytest.raises(ValueError, match="no PNG"):
        embed(b"GIF89a", b"text")


def test_a_broken_receipt_chunk_is_refused():
    for body in (b"nearlight\0not base64!", b"nearlight\0" + b"A" * (2 * MAX_BUNDLE_BYTES)):
        with pytest.raises(NotAPicture):
            strip(png_of(header(), chunk(b"IDAT", zlib.compress(rows())), chunk(b"tEXt", body)))


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda data: SIGNATURE + data))
def test_any_bytes_are_a_picture_or_a_remote_error(data):
    for read in (strip, lambda png: check_picture_untrusted(png, WIDTH, HEIGHT)):
        with pytest.raises(RemoteProtocolError):
            read(data)


# check_picture_untrusted


@pytest.mark.parametrize("png", [PNG, PLAIN, pillow_png(compress_level=0), pillow_png(dpi=(72, 72))])
def test_the_pixels_of_a_good_picture(png):
    assert check_picture_untrusted(png, WIDTH, HEIGHT) == RGB


@pytest.mark.parametrize(("width", "height"), [(8, 8), (512, 512), (1000, 1001)])
def test_incompressible_pictures_of_any_size_are_within_the_bound(width, height):
    rgb = random.Random(1).randbytes(3 * width * height)
    for level in (0, 1):
        assert (
            check_picture_untrusted(pillow_png(rgb, (width, height), compress_level=level), width, height)
            == rgb
        )


GOOD_DATA = chunk(b"IDAT", zlib.compress(rows()))
PADDING = chunk(b"pHYs", bytes(9))


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("it is no PNG file", b""),
        ("it is no PNG file", b"\xff\xd8\xff\xe0" + bytes(100)),
        ("a picture of 32x16, where 24x16", png_of(header(width=32), GOOD_DATA)),
        ("a picture of 65535x65535", png_of(header(65535, 65535), GOOD_DATA)),
        ("not 8-bit RGB", png_of(header(rest=(8, 6, 0, 0, 0)), GOOD_DATA)),
        ("not 8-bit RGB", png_of(header(rest=(16, 2, 0, 0, 0)), GOOD_DATA)),
        ("not 8-bit RGB", png_of(header(rest=(8, 2, 0, 0, 1)), GOOD_DATA)),
        ("not 8-bit RGB", pillow_png(mode="L")),
        ("no b'tEXt' chunk", embed(PNG, b"words")),
        ("no b'acTL' chunk", png_of(header(), chunk(b"acTL", bytes(8)), GOOD_DATA)),
        (
            "no b'iCCP' chunk",
            png_of(header(), chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(99))), GOOD_DATA),
        ),
        ("chunk of 17 bytes", png_of(header(), chunk(b"pHYs", bytes(17)), GOOD_DATA)),
        ("not the chunks", png_of(PADDING, header(), GOOD_DATA)),
        ("not the chunks", png_of(header(), header(), GOOD_DATA)),
        ("not the chunks", png_of(chunk(b"IHDR", bytes(12)), GOOD_DATA)),
        ("not the chunks", SIGNATURE + header() + GOOD_DATA + chunk(b"IEND", b"x")),
        ("ends inside its chunks", SIGNATURE + header() + GOOD_DATA),
        ("behind the end", PNG + b"PK"),
        ("chunk is longer than its file", PNG[:-30]),
        ("longer than its file", SIGNATURE + b"\xff\xff\xff\xffIDAT" + bytes(40)),
        ("checksum", PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:]),
        ("does not unpack to exactly", png_of(header(), chunk(b"IDAT", zlib.compress(rows()[:-73])))),
        ("does not unpack to exactly", png_of(header(), chunk(b"IDAT", zlib.compress(rows() + b"\0")))),
        ("does not unpack to exactly", png_of(header(), chunk(b"IDAT", zlib.compress(rows())[:-5]))),
        ("does not unpack to exactly", png_of(header(), chunk(b"IDAT", zlib.compress(rows()) + b"more"))),
        ("does not unpack to exactly", png_of(header())),
        ("does not unpack", png_of(header(), chunk(b"IDAT", b"\xff" * 40))),
        ("row filter", png_of(header(), chunk(b"IDAT", zlib.compress(rows(filter_type=5))))),
        ("does not unpack to exactly", png_of(header(), chunk(b"IDAT", zlib.compress(bytes(1_000_000), 9)))),
        ("needs at most", png_of(header(), chunk(b"IDAT", bytes(6000)))),
    ],
)
def test_refused(why, data):
    with pytest.raises(NotAPicture, match=why):
        check_picture_untrusted(data, WIDTH, HEIGHT)


def test_a_decompression_bomb_allocates_no_more_than_the_size_asked():
    bomb = png_of(header(), chunk(b"IDAT", zlib.compress(bytes(3_000_000), 9)))
    tracemalloc.start()
    with pytest.raises(NotAPicture):
        check_picture_untrusted(bomb, WIDTH, HEIGHT)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


def test_a_picture_in_a_million_chunks_is_refused():
    many = png_of(header(2048, 2048), chunk(b"IDAT", b"") * 70_000)
    with pytest.raises(NotAPicture, match="more than 65536 chunks"):
        check_picture_untrusted(many, 2048, 2048)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_changed_bytes_are_refused_or_change_nothing(changes):
    data = bytearray(PLAIN)
    for at, by in changes:
        data[at] ^= by
    try:
        assert check_picture_untrusted(bytes(data), WIDTH, HEIGHT) == RGB
    except RemoteProtocolError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=len(rows())))
def test_any_rows_are_pixels_or_a_remote_error(raw):
    data = png_of(header(8, 4), chunk(b"IDAT", zlib.compress(raw[:100].ljust(100, b"\1"))))
    try:
        assert len(check_picture_untrusted(data, 8, 4)) == 96
    except RemoteProtocolError:
        pass


# verify_file


def test_an_untouched_picture_is_unchanged(saved):
    report = verify_file(saved(embed(PNG, bundle(statement=STATEMENT.to_bytes(), offer=offer()))))
    assert report.ok
    assert report.verdict == "unchanged"
    assert [(check.what, check.ok) for check in report.checked] == [
        ("signature", True),
        ("outcome", True),
        ("statement", True),
        ("offer", True),
        ("file", True),
    ]
    assert report.provider == peer_id_of(public_key_of(PROVIDER))
    assert report.requester == peer_id_of(public_key_of(REQUESTER))
    assert report.statement == STATEMENT


def test_without_statement_and_offer_they_are_not_checked(saved):
    report = verify_file(saved(embed(PNG, bundle())))
    assert [check.what for check in report.checked] == ["signature", "outcome", "file"]
    assert report.statement is None


def _info(keyword, text):
    info = PngInfo()
    info.add_text(keyword, text)
    return info


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_same_pixels_in_another_file_are_re_saved(saved, mode):
    text = Image.open(io.BytesIO(embed(PNG, bundle()))).text["nearlight"]
    again = pillow_png(mode=mode, compress_level=1, pnginfo=_info("nearlight", text))
    report = verify_file(saved(again))
    assert report.verdict == "re-saved"
    assert [(check.what, check.ok) for check in report.checked][-2:] == [("file", False), ("pixels", True)]


def test_a_receipt_from_the_ledger_serves_a_file_that_lost_its_own(saved):
    path = saved(pillow_png(compress_level=1))
    assert verify_file(path).verdict == "no receipt"
    assert verify_file(path, bundle=bundle()).verdict == "re-saved"
    assert not verify_file(path).ok


def test_one_changed_pixel_is_changed(saved):
    rgb = bytearray(RGB)
    rgb[100] ^= 1
    report = verify_file(saved(embed(pillow_png(bytes(rgb)), bundle())))
    assert report.verdict == "changed"
    assert not report.ok
    assert report.checked[-1].sentence == "The pixels are not those that were signed."


def test_another_size_is_changed(saved):
    report = verify_file(saved(embed(pillow_png(RGB, (HEIGHT, WIDTH)), bundle())))
    assert report.verdict == "changed"


@pytest.mark.parametrize(
    "shown",
    [
        {"receipt": receipt_for()[:-1] + bytes([receipt_for()[-1] ^ 1])},
        {"receipt": b"junk"},
        {"network": "another"},
        {"receipt": receipt_for(outcome="cancelled")},
        {"statement": b"junk"},
        {"statement": STATEMENT.to_bytes().replace(b"a canary", b"a parrot")},
        {"offer": b"junk"},
        {"offer": offer(attempt=b"\x09" * 16)},
        {"offer": offer(provider=public_key_of(REQUESTER))},
    ],
)
def test_a_receipt_that_does_not_fit_together_is_a_bad_receipt(saved, shown):
    report = verify_file(saved(embed(PNG, bundle(**shown))))
    assert report.verdict == "bad receipt"
    assert not report.ok
    assert not all(check.ok for check in report.checked)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_any_bundle_is_a_bad_receipt(saved, text):
    assert verify_file(saved(embed(PNG, text))).verdict == "bad receipt"


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(50), PNG[:-20], PNG + b"tail"])
def test_a_file_that_is_no_picture_is_a_sentence(saved, data):
    with pytest.raises(UnreadablePicture, match=r"picture\.png cannot be read as a PNG picture: .+\.$"):
        verify_file(saved(data))


def test_a_picture_that_claims_too_many_pixels_is_not_decoded(saved):
    with pytest.raises(UnreadablePicture, match="claims 60000x60000"):
        verify_file(saved(embed(png_of(header(60000, 60000), GOOD_DATA), bundle())))


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(UnreadablePicture, match="No such file"):
        verify_file(tmp_path / "none.png")
    with pytest.raises(UnreadablePicture, match="Is a directory"):
        verify_file(tmp_path)


def test_a_bundle_comes_back_and_has_one_encoding():
    shown = Bundle(network="test", receipt=b"r", offer=b"o", statement=None)
    assert Bundle.from_untrusted(shown.to_bytes()) == shown
    with pytest.raises(RemoteProtocolError):
        Bundle.from_untrusted(shown.to_bytes() + b"\0")
