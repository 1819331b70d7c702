"""A second peer, written from protocol/README.md alone: joins, has one picture drawn, checks and settles it.

toy_peer.py JOIN_ADDRESS OUT.png SIDE_PX prints one line of JSON.  It draws at the peer whose address it is given; it
does not decode the picture, advertise, answer sync requests or resume.  Numbers in brackets: sections of the README.
"""

import json
import os
import random
import sys
import time
from hashlib import sha256

import msgpack
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

NETWORK, TOPIC = "main", "nearlight/main/adverts/1"
LINK, SYNC, TASK = "/nearlight/link/1", "/nearlight/adverts/1", "/nearlight/task/1"
MAX_FRAME_BYTES = {LINK: 16 << 10, SYNC: 1 << 20, TASK: 128 << 10}  # [4]
SILENCE_S = 30  # far longer than the deadlines of [9.3]: a test's machine may be busy
FIELDS = """envelope key payload signature
hello network versions boot_id sent_us features limits
ping number sent_us want_state
pong number heard_us sent_us state
advert name boot_epoch sequence issued_us lifetime_s addresses kinds devices models limits
accept wait_us load_us step_us state heard_us sent_us
refuse code sentence state heard_us sent_us
loading phase sent_us
start step_us sent_us
progress step preview sent_us
result codec width height file_bytes file spans sent_us
chunk offset data
receipt envelope sent_us
failed code fault sentence sent_us
account attempt statement requester outcome steps_done outputs_root outputs pixels file file_bytes sigmas environment \
queue_us load_us render_us finished_us retain_s price_millionths trace_root trace_leaves trace_class"""
CRITICAL = {kind: set(names) for kind, *names in map(str.split, FIELDS.splitlines())}
NEXT = {  # what the provider may say in each state, and its state then [9.2]
    "OFFERED": {"accept": "ACCEPTED", "refuse": "REFUSED"},
    "ACCEPTED": {"loading": "ACCEPTED", "start": "RUNNING", "result": "SENDING", "failed": "FAILED"},
    "RUNNING": {"progress": "RUNNING", "result": "SENDING", "failed": "FAILED"},
    "SENDING": {"chunk": "SENDING", "receipt": "RECEIPTED", "failed": "FAILED"},
}
SAMPLERS = {"sd": "euler", "sdxl": "euler", "sd3": "flow_euler", "flux": "flow_euler"}
EPOCH_US, BOOT_ID = random.SystemRandom().randrange(1 << 40), os.urandom(16)
PRIVATE = Ed25519PrivateKey.generate()
KEY = PRIVATE.public_key().public_bytes_raw()


def need(holds, what):
    if not holds:
        sys.exit(f"toy_peer: {what}")


def now_us():
    return EPOCH_US + time.monotonic_ns() // 1000


def fields(**named):
    return named


def encode(value):  # [3]
    def ordered(part):
        if isinstance(part, dict):
            return {key: ordered(part[key]) for key in sorted(part, key=str.encode)}
        return [ordered(each) for each in part] if isinstance(part, list) else part

    return msgpack.packb(ordered(value))


def decode(data, kind=None):
    value = msgpack.unpackb(data)
    need(encode(value) == data, "bytes that are not canonical")
    return checked(kind, value) if kind else value


def checked(kind, value):
    critical = {key for key in value if not key.startswith("~")}
    need(critical == CRITICAL[kind], f"{kind}: the critical fields differ: {critical ^ CRITICAL[kind]}")
    return value


def signed(kind, payload):  # [5]
    signature = PRIVATE.sign(f"nearlight/{NETWORK}/{kind}/1\0".encode() + payload)
    return encode({"key": KEY, "payload": payload, "signature": signature})


def opened(kind, data):
    envelope = decode(data, "envelope")
    tagged = f"nearlight/{NETWORK}/{kind}/1\0".encode() + envelope["payload"]
    Ed25519PublicKey.from_public_bytes(envelope["key"]).verify(envelope["signature"], tagged)
    return envelope["key"], envelope["payload"]


class Frames:  # [4]
    def __init__(self, stream, protocol):
        self.stream, self.at_most_bytes, self.buffer = stream, MAX_FRAME_BYTES[protocol], b""

    async def send(self, kind, **body):
        data = encode([kind, body])
        await self.stream.write(len(data).to_bytes(4, "big") + data)

    async def take(self, count):
        while len(self.buffer) < count:
            with trio.fail_after(SILENCE_S):
                piece = await self.stream.read(65524)
            need(piece, "the stream ended inside a message")
            self.buffer += piece
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    async def receive(self):
        length = int.from_bytes(await self.take(4), "big")
        need(length <= self.at_most_bytes, "a frame that is too long")
        kind, body = decode(await self.take(length))
        return kind, checked(kind, body) if kind in CRITICAL else body


class Link:  # [6]
    def __init__(self):
        self.boot_id, self.ahead_us, self.asked_us, self.pongs, self.pings = None, -(10**15), {}, 0, 0
        self.measured = trio.Event()

    async def run(self, stream):
        frames = Frames(stream, LINK)
        about = fields(network=NETWORK, versions=[1], boot_id=BOOT_ID, features=[], limits={})
        await frames.send("hello", **about, sent_us=now_us())
        kind, hello = await frames.receive()
        need(kind == "hello" and hello["network"] == NETWORK and 1 in hello["versions"], "no HELLO that fits")
        self.boot_id = hello["boot_id"]
        await self.ping(frames)
        while True:
            kind, body = await frames.receive()
            heard_us = now_us()
            if kind == "ping":
                answer = fields(number=body["number"], heard_us=heard_us, state=None)
                await frames.send("pong", **answer, sent_us=now_us())
                self.pings += 1
                continue
            need(kind == "pong" and self.asked_us.pop(body["number"], 0), "not a PONG that was asked")
            self.ahead_us = max(self.ahead_us, body["sent_us"] - heard_us)  # the peer's clock, at least
            self.pongs += 1
            if self.pongs < 6:
                await self.ping(frames)
            else:
                self.measured.set()

    async def ping(self, frames):
        sent_us = self.asked_us[self.pongs] = now_us()
        await frames.send("ping", number=self.pongs, sent_us=sent_us, want_state=True)


async def advert_of(provider, frames):  # [7]
    await frames.send("known")
    kind, envelopes = await frames.receive()
    need(kind == "adverts", "no reply to a sync request")
    adverts = dict(opened("advert", each) for each in envelopes)
    need(provider in adverts, "the peer's own advert is not among those it knows")
    return decode(adverts[provider], "advert")


def statement_for(advert, side_px):  # [8]
    need("txt2img" in advert["kinds"] and advert["models"], "this peer does not provide")
    need(side_px**2 <= advert["limits"]["pixels"], "this peer draws nothing so large")
    model = advert["models"][0]
    dtypes = [name for device in advert["devices"] for name in device["dtypes"]]
    what = fields(kind="txt2img", model=model["id"], prompt="a red circle on white", negative="", adapters=[])
    size = fields(width=side_px, height=side_px, inputs=[], outputs=[{"role": "image", "codec": "png"}])
    how = fields(sampler=SAMPLERS[model["family"]], steps=3, sigmas=None, guidance_millionths=4_000_000)
    drawn = fields(noise="noise/1", seed=7, precision="fp32" if "fp32" in dtypes else dtypes[0])
    return what | size | how | drawn | fields(audit="none", salt=os.urandom(16))


async def draw(provider, link, frames, statement):  # [9]
    stated, attempt = encode(statement), os.urandom(16)
    offer = fields(statement=stated, provider=provider, boot_id=link.boot_id, attempt=attempt)
    offer |= fields(expires_us=now_us() + link.ahead_us + 300_000_000, max_wait_us=None)
    offer |= fields(price_cap_millionths=None, value_of_time_millionths=0)
    await frames.send("offer", envelope=signed("offer", encode(offer)), sent_us=now_us())
    state, said, file, result = "OFFERED", {}, b"", None
    while state != "RECEIPTED":
        kind, body = await frames.receive()
        need(kind in NEXT[state], f"{kind} in state {state}")
        state, said[kind] = NEXT[state][kind], said.get(kind, 0) + 1
        need(kind not in ("refuse", "failed"), f"{kind}: {body.get('code')}: {body.get('sentence')}")
        if kind == "result":
            result = body
            need(all(body[side] == statement[side] for side in ("width", "height")), "another size")
        elif kind == "chunk":  # [9.4]
            need(body["offset"] == len(file) and body["data"], "a chunk out of order")
            file += body["data"]
            need(len(file) <= result["file_bytes"], "more bytes than were announced")
            if said["chunk"] % 2 == 0 or len(file) == result["file_bytes"]:
                await frames.send("ack", offset=len(file))
    signer, payload = opened("receipt", body["envelope"])  # [10]
    receipt, digest = decode(payload, "account"), sha256(file).digest()
    about = [signer, receipt["attempt"], receipt["statement"], receipt["requester"], receipt["outcome"]]
    need(about == [provider, attempt, sha256(stated).digest(), KEY, "done"], "a receipt for something else")
    need(receipt["file"] == receipt["outputs_root"] == result["file"] == digest, "another file's hash")
    need(receipt["file_bytes"] == result["file_bytes"] == len(file), "another length")
    settled = encode(fields(attempt=attempt, receipt=sha256(payload).digest(), accepted=True))
    await frames.send("settled", envelope=signed("settled", settled), sent_us=now_us())
    await frames.stream.close()
    with trio.move_on_after(5):  # until the provider, having read it all, closes as well
        try:
            need(not await frames.stream.read(1), "something was said after SETTLED")
        except (StreamEOF, StreamError):
            pass
    return file, receipt, said


async def main(address, out, side_px):
    info, link = info_from_p2p_addr(Multiaddr(address)), Link()
    pair, noise = create_new_key_pair(PRIVATE.private_bytes_raw()), create_new_x25519_key_pair()
    security = {NOISE_ID: Noise(pair, noise_privkey=noise.private_key)}
    config = ConnectionConfig(min_connections=0, low_watermark=0, max_connections_per_peer=1)
    host = new_host(key_pair=pair, sec_opt=security, muxer_opt={YAMUX_ID: Yamux}, connection_config=config)
    extras = ("adaptive_gossip_enabled", "spam_protection_enabled", "eclipse_protection_enabled")
    off = dict.fromkeys(extras, False)
    gossip = GossipSub(["/meshsub/1.2.0", "/meshsub/1.1.0"], 6, 4, 12, heartbeat_interval=1, **off)
    pubsub = Pubsub(host, gossip, strict_signing=True)
    host.set_stream_handler(LINK, link.run)
    ours, theirs = host.get_id().to_string(), info.peer_id.to_string()
    provider = info.peer_id.to_bytes()[6:]  # [2]

    async def stream(protocol):
        with trio.fail_after(10):
            return await host.new_stream(info.peer_id, [protocol])

    services = background_trio_service(pubsub), background_trio_service(gossip)
    async with host.run([]), services[0], services[1], trio.open_nursery() as nursery:
        await pubsub.wait_until_ready()
        await pubsub.subscribe(TOPIC)
        with trio.fail_after(10):
            await host.connect(info)
        if ours < theirs:  # [1]
            nursery.start_soon(link.run, await stream(LINK))
        with trio.fail_after(10):
            await link.measured.wait()
        advert = await advert_of(provider, Frames(await stream(SYNC), SYNC))
        statement = statement_for(advert, int(side_px))
        file, receipt, said = await draw(provider, link, Frames(await stream(TASK), TASK), statement)
        await trio.Path(out).write_bytes(file)
        topic_peers = len(pubsub.peer_topics.get(TOPIC, ()))
        nursery.cancel_scope.cancel()
    told = fields(requester=ours, provider=theirs, opened_link=ours < theirs, name=advert["name"], said=said)
    told |= {name: receipt[name].hex() for name in ("attempt", "statement", "file", "pixels")}
    told |= fields(pongs=link.pongs, pings=link.pings, topic_peers=topic_peers, file_bytes=len(file))
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    need(len(sys.argv) == 4, "give JOIN_ADDRESS OUT.png SIDE_PX")
    trio.run(main, *sys.argv[1:])
