"""A second peer, written from protocol/README.md alone: joins, has one picture drawn, checks and settles it.

toy_peer.py JOIN_ADDRESS OUT.png SIDE_PX prints one line of JSON.  It draws at the peer whose address it is given; it
does not ping, gossip, advertise, resume, decode the picture or look for fields that it does not know.  Numbers in
brackets: sections of the README.
"""

import json
import os
import random
import sys
import time
from contextlib import suppress
from hashlib import sha256

import msgpack
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

NETWORK = "main"
LINK, SYNC, TASK = "/nearlight/link/1", "/nearlight/adverts/1", "/nearlight/task/1"
MAX_FRAME_BYTES = {LINK: 16 << 10, SYNC: 1 << 20, TASK: 128 << 10}  # [4]
SILENCE_S = 30  # far longer than the deadlines of [9.3]: a test's machine may be busy
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


def encode(value):  # [3]
    def ordered(part):
        if isinstance(part, dict):
            return {key: ordered(part[key]) for key in sorted(part, key=str.encode)}
        return [ordered(each) for each in part] if isinstance(part, list) else part

    return msgpack.packb(ordered(value))


def decode(data):
    need(encode(value := msgpack.unpackb(data)) == data, "bytes that are not canonical")
    return value


def signed(kind, payload):  # [5]
    tag = f"nearlight/{NETWORK}/{kind}/1\0".encode()
    return encode({"key": KEY, "payload": payload, "signature": PRIVATE.sign(tag + payload)})


def opened(kind, data):
    envelope, tag = decode(data), f"nearlight/{NETWORK}/{kind}/1\0".encode()
    key = Ed25519PublicKey.from_public_bytes(envelope["key"])
    key.verify(envelope["signature"], tag + envelope["payload"])
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
                need(piece := await self.stream.read(65524), "the stream ended inside a message")
            self.buffer += piece
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    async def receive(self):
        length = int.from_bytes(await self.take(4), "big")
        need(length <= self.at_most_bytes, "a frame that is too long")
        return decode(await self.take(length))


class Link:  # [6]
    def __init__(self):
        self.boot_id, self.ahead_us, self.pings, self.greeted = None, None, 0, trio.Event()

    async def run(self, stream):
        frames = Frames(stream, LINK)
        about = {"network": NETWORK, "versions": [1], "boot_id": BOOT_ID, "features": [], "limits": {}}
        await frames.send("hello", **about, sent_us=now_us())
        kind, hello = await frames.receive()
        need(kind == "hello" and hello["network"] == NETWORK and 1 in hello["versions"], "no HELLO that fits")
        self.boot_id, self.ahead_us = hello["boot_id"], hello["sent_us"] - now_us()  # of its clock: at least
        self.greeted.set()
        while True:
            kind, ping = await frames.receive()
            heard_us = now_us()
            need(kind == "ping", f"{kind} instead of PING")
            await frames.send(
                "pong", number=ping["number"], heard_us=heard_us, state=None, watch_us=0, sent_us=now_us()
            )
            self.pings += 1


async def advert_of(provider, frames):  # [7]
    await frames.send("known")
    kind, envelopes = await frames.receive()
    adverts = dict(opened("advert", each) for each in envelopes)
    need(kind == "adverts" and provider in adverts, "the peer's own advert is not among those it knows")
    return decode(adverts[provider])


def statement_for(advert, side_px):  # [8]
    need("txt2img" in advert["kinds"] and advert["models"], "this peer does not provide")
    need(side_px**2 <= advert["limits"]["pixels"], "this peer draws nothing so large")
    model = advert["models"][0]
    dtypes = [name for device in advert["devices"] for name in device["dtypes"]]
    what = {"kind": "txt2img", "model": model["id"], "prompt": "a red circle on white", "negative": ""}
    size = {"width": side_px, "height": side_px, "inputs": [], "outputs": [{"role": "image", "codec": "png"}]}
    how = {"sampler": SAMPLERS[model["family"]], "steps": 3, "sigmas": None, "guidance_millionths": 4_000_000}
    drawn = {"noise": "noise/1", "seed": 7, "precision": "fp32" if "fp32" in dtypes else dtypes[0]}
    return what | size | how | drawn | {"adapters": [], "audit": "none", "salt": os.urandom(16)}


async def draw(provider, link, frames, statement):  # [9]
    stated, attempt = encode(statement), os.urandom(16)
    offer = {"statement": stated, "provider": provider, "boot_id": link.boot_id, "attempt": attempt}
    offer |= {"expires_us": now_us() + link.ahead_us + 300_000_000, "max_wait_us": None}
    offer |= {"price_cap_millionths": None, "value_of_time_millionths": 0}
    await frames.send("offer", envelope=signed("offer", encode(offer)), sent_us=now_us())
    state, said, file, result = "OFFERED", {}, b"", None
    while state != "RECEIPTED":
        kind, body = await frames.receive()
        need(kind in NEXT[state], f"{kind} in state {state}")
        state, said[kind] = NEXT[state][kind], said.get(kind, 0) + 1
        need(state not in ("REFUSED", "FAILED"), f"{kind}: {body.get('code')}: {body.get('sentence')}")
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
    receipt, digest = decode(payload), sha256(file).digest()
    about = [signer, receipt["attempt"], receipt["statement"], receipt["requester"], receipt["outcome"]]
    need(about == [provider, attempt, sha256(stated).digest(), KEY, "done"], "a receipt for something else")
    need(receipt["file"] == receipt["outputs_root"] == result["file"] == digest, "another file's hash")
    need(receipt["file_bytes"] == result["file_bytes"] == len(file), "another length")
    settled = encode({"attempt": attempt, "receipt": sha256(payload).digest(), "accepted": True})
    await frames.send("settled", envelope=signed("settled", settled), sent_us=now_us())
    await frames.stream.close()
    with trio.move_on_after(5), suppress(StreamEOF, StreamError):
        await frames.stream.read(1)  # until the provider, having read it all, closes as well
    return file, receipt, said


async def main(address, out, side_px):
    info, link = info_from_p2p_addr(Multiaddr(address)), Link()
    host = new_host(key_pair=create_new_key_pair(PRIVATE.private_bytes_raw()))
    host.set_stream_handler(LINK, link.run)
    ours, theirs = host.get_id().to_string(), info.peer_id.to_string()
    provider = info.peer_id.to_bytes()[6:]  # [2]
    async with host.run([]), trio.open_nursery() as nursery:
        with trio.fail_after(SILENCE_S):
            await host.connect(info)
            if ours < theirs:  # [1]
                nursery.start_soon(link.run, await host.new_stream(info.peer_id, [LINK]))
            await link.greeted.wait()
            advert = await advert_of(provider, Frames(await host.new_stream(info.peer_id, [SYNC]), SYNC))
            frames = Frames(await host.new_stream(info.peer_id, [TASK]), TASK)
        file, receipt, said = await draw(provider, link, frames, statement_for(advert, int(side_px)))
        await trio.Path(out).write_bytes(file)
        nursery.cancel_scope.cancel()
    told = {name: receipt[name].hex() for name in ("attempt", "statement", "file", "pixels")}
    told |= {"requester": ours, "provider": theirs, "opened_link": ours < theirs, "name": advert["name"]}
    print(json.dumps(told | {"said": said, "pings": link.pings, "file_bytes": len(file)}), flush=True)


if __name__ == "__main__":
    need(len(sys.argv) == 4, "give JOIN_ADDRESS OUT.png SIDE_PX")
    trio.run(main, *sys.argv[1:])
