"""One of every message, from fixed keys: what the vectors spell out and the fuzzers start from."""

import hashlib
from dataclasses import replace

from protocol.wire import advert, task
from protocol.wire.advert import (
    Advert,
    Device,
    FewStep,
    Limits,
    OfferedAdapter,
    OfferedModel,
    SignedAdvert,
    Speed,
)
from protocol.wire.canonical import encode
from protocol.wire.coordinate import Coordinate
from protocol.wire.frames import pack
from protocol.wire.hello import Hello, LiveState, Ping, Pong, StateMessage, WaitMessage
from protocol.wire.identity import peer_id_of, public_key_of
from protocol.wire.lookup import Find, place_of
from protocol.wire.manifest import ADAPTER_FAMILY, FileHasher, Manifest, ManifestFile
from protocol.wire.offer import Offer, SignedOffer
from protocol.wire.receipt import Receipt, Settled, SignedReceipt, pixel_hash
from protocol.wire.statement import Statement

NETWORK = "vectors"
REQUESTER_SEED = bytes(range(32))
PROVIDER_SEED = bytes(range(32, 64))
REQUESTER_KEY = public_key_of(REQUESTER_SEED)
PROVIDER_KEY = public_key_of(PROVIDER_SEED)
REQUESTER = peer_id_of(REQUESTER_KEY)
PROVIDER = peer_id_of(PROVIDER_KEY)
BOOT_ID = bytes.fromhex("b0" * 16)
ATTEMPT = bytes.fromhex("a7" * 16)


def root(data):
    hasher = FileHasher()
    hasher.update(data)
    return hasher.root()


MANIFEST = Manifest(
    family="sd",
    pipeline="StableDiffusionPipeline",
    variant="",
    files=(
        ManifestFile("model_index.json", 2, root(b"{}")),
        ManifestFile("unet/diffusion_pytorch_model.safetensors", 3, root(b"abc")),
    ),
)
MODEL = MANIFEST.id
ADAPTER_MANIFEST = Manifest(
    family=ADAPTER_FAMILY,
    pipeline="",
    variant="",
    files=(
        ManifestFile("adapter.json", 17, root(b'{"name":"sketch"}')),
        ManifestFile("pytorch_lora_weights.safetensors", 3, root(b"xyz")),
    ),
)
HELLO = Hello(
    network=NETWORK,
    versions=(1,),
    boot_id=BOOT_ID,
    sent_us=5_000_000,
    features=(),
    limits=(("tasks", 8),),
    agent="nearlight/0.1.0",
)
STATE = LiveState(wait_us=250_000, running=1, queued=0, free_memory_mib=None, resident=(MODEL,))
WAIT = WaitMessage.of(STATE)
PING = Ping(number=7, sent_us=6_000_000, want_state=True, watch=True)
PONG = Pong(number=7, heard_us=9_000_000, sent_us=9_000_050, state=STATE, watch_us=15_000_000)
ADVERT = Advert(
    name="studio",
    boot_epoch=3,
    sequence=12,
    issued_us=1_760_000_000_000_000,
    lifetime_s=180,
    addresses=(f"/ip4/192.0.2.7/tcp/4001/p2p/{PROVIDER}",),
    kinds=("txt2img",),
    devices=(Device("cuda", "NVIDIA L4", 1, 23_034, 20_480, (8, 9), ("fp16", "fp32")),
             Device("cpu", "x86", 1, None, None, None, ("fp32",))),
    models=(OfferedModel(MODEL, "small", "sd", "resident", (256, 256), 900_000,
                         (Speed(256, 256, "fp32", 40_000, 90_000),), total_bytes=4_270_000_000),),
    limits=Limits(pixels=1 << 20, steps=100, prompt_bytes=2048, queue=4),
)  # fmt: skip
STATEMENT = Statement(
    model=MODEL,
    prompt="a gold spiral on navy",
    width=256,
    height=256,
    steps=20,
    guidance_millionths=5_000_000,
    sampler="ddim",
    seed=42,
    salt=bytes.fromhex("5a" * 16),
    precision="fp32",
)
OFFER = Offer(
    statement=STATEMENT,
    provider=PROVIDER_KEY,
    boot_id=BOOT_ID,
    attempt=ATTEMPT,
    expires_us=69_000_000,
    max_wait_us=30_000_000,
)
FILE = b"\x89PNG, in name only"
RECEIPT = Receipt(
    attempt=ATTEMPT,
    statement=STATEMENT.hash,
    requester=REQUESTER_KEY,
    outcome="done",
    steps_done=20,
    outputs_root=hashlib.sha256(FILE).digest(),  # the root over one leaf is the leaf
    outputs=1,
    pixels=pixel_hash(bytes(3 * 256 * 256), width=256, height=256),
    file=hashlib.sha256(FILE).digest(),
    file_bytes=len(FILE),
    sigmas=hashlib.sha256(b"sigmas").digest(),
    environment="cpu torch 2.13.0 diffusers 0.35.1",
    queue_us=1_000,
    load_us=0,
    render_us=890_000,
    finished_us=1_760_000_001_000_000,
    retain_s=600,
)
SIGNED_ADVERT = SignedAdvert.sign(ADVERT, network=NETWORK, private_key=PROVIDER_SEED)
COORDINATE = Coordinate(x_us=-41_250, y_us=8_000, z_us=120, height_us=1_900, error_millionths=110_000)
SHARDED_ADVERT = SignedAdvert.sign(
    replace(ADVERT, sequence=13, lifetime_s=600, coordinate=COORDINATE, shard_bits=3), network=NETWORK,
    private_key=PROVIDER_SEED,
)  # fmt: skip
ADAPTERS = (
    OfferedAdapter(ADAPTER_MANIFEST.id, "sketch"),
    OfferedAdapter(bytes.fromhex("fe" * 32), "quick", FewStep(4, 1_000_000, "ddim")),
)
ADAPTERS_ADVERT = SignedAdvert.sign(
    replace(ADVERT, sequence=14, models=(replace(ADVERT.models[0], adapters=ADAPTERS),)), network=NETWORK,
    private_key=PROVIDER_SEED,
)  # fmt: skip
FIND = Find(place=place_of(REQUESTER), near=COORDINATE, model=MODEL, at_most=8)
SIGNED_OFFER = SignedOffer.sign(OFFER, network=NETWORK, private_key=REQUESTER_SEED)
DUE_OFFER = SignedOffer.sign(replace(OFFER, due_us=41_000_000), network=NETWORK, private_key=REQUESTER_SEED)
SIGNED_RECEIPT = SignedReceipt.sign(RECEIPT, network=NETWORK, private_key=PROVIDER_SEED)
SETTLED = Settled(ATTEMPT, SIGNED_RECEIPT.envelope.hash, True)
SETTLED_ENVELOPE = SETTLED.sign(network=NETWORK, private_key=REQUESTER_SEED)

TASK_MESSAGES = (
    task.OfferMessage(SIGNED_OFFER.envelope.to_bytes(), 6_100_000),
    task.Resume(ATTEMPT, 65_400, 6_100_000),
    task.Accept(250_000, 0, 40_000, STATE, 9_100_000, 9_100_300),
    task.Refuse("busy", "It could start in 40 s at the earliest.", STATE, 9_100_000, 9_100_300),
    task.Loading("weights", 9_200_000),
    task.Start(40_000, 9_350_000),
    task.Progress(1, task.Preview(2, 1, bytes.fromhex("10204080a0c0")), 9_400_000),
    task.Progress(2, None, 9_440_000),
    task.Result("png", 256, 256, len(FILE), RECEIPT.file, (("step", 250_000, 40_000), ("decode", 1_050_000, 30_000)),
                10_300_000),
    task.Chunk(0, FILE),
    task.Ack(len(FILE)),
    task.ReceiptMessage(SIGNED_RECEIPT.envelope.to_bytes(), 10_330_000, 10_300_400),
    task.Failed("out_of_memory", "provider", "The device ran out of memory.", 9_500_000),
    task.Cancel(6_500_000),
    task.SettledMessage(SETTLED_ENVELOPE.to_bytes(), 7_500_000),
)  # fmt: skip

# name: (what it is, bytes)
VECTORS = {
    "hello": ("HELLO frame of the provider (README section 6)", pack(HELLO.to_value())),
    "ping": ("PING frame (section 6)", pack(PING.to_value())),
    "pong": ("PONG frame with live state (section 6)", pack(PONG.to_value())),
    "state": ("STATE frame (section 6)", pack(StateMessage(STATE).to_value())),
    "wait": ("WAIT frame (section 6)", pack(WAIT.to_value())),
    "advert": ("advert envelope signed by the provider (section 7)", SIGNED_ADVERT.envelope.to_bytes()),
    "advert_sharded": (
        "the same with a coordinate, from a shard of 3 bits (section 7)",
        SHARDED_ADVERT.envelope.to_bytes(),
    ),
    "advert_adapters": (
        "the same from the topic of all, with two adapters of its model (section 7)",
        ADAPTERS_ADVERT.envelope.to_bytes(),
    ),
    "find": (
        f"LOOKUP frame of the requester, whose place is {place_of(REQUESTER).hex()} (section 7)",
        pack(FIND.to_value()),
    ),
    "sync_request": ("frame asking for adverts (section 7)", pack(advert.sync_request({PROVIDER: (3, 11)}))),
    "sync_reply": ("frame answering it (section 7)", pack(advert.sync_reply([SIGNED_ADVERT.envelope]))),
    "statement": (f"statement; SHA-256 {STATEMENT.hash.hex()} (section 8)", STATEMENT.to_bytes()),
    "offer": ("offer envelope signed by the requester (section 8)", SIGNED_OFFER.envelope.to_bytes()),
    "offer_due": ("the same with a deadline (section 8)", DUE_OFFER.envelope.to_bytes()),
    "receipt": ("receipt envelope signed by the provider (section 10)", SIGNED_RECEIPT.envelope.to_bytes()),
    "settled": ("settled envelope signed by the requester (section 10)", SETTLED_ENVELOPE.to_bytes()),
    "manifest": (f"manifest; model id {MODEL.hex()} (section 14)", MANIFEST.to_bytes()),
    "manifest_adapter": (
        f"manifest of an adapter; id {ADAPTER_MANIFEST.id.hex()} (section 14)",
        ADAPTER_MANIFEST.to_bytes(),
    ),
    "unknown": ("a map with an ignorable and a critical field (section 3)", encode({"~hint": 1, "must": None})),
    **{
        f"task_{number:02}_{message.KIND}": (f"{message.KIND.upper()} frame (section 9)", pack(task.to_value(message)))
        for number, message in enumerate(TASK_MESSAGES)
    },
}  # fmt: skip
