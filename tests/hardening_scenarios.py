"""What strangers and bad luck do to a host: each scenario passes, or raises if the host does not survive it.

`python -m tests.hardening_scenarios SCENARIO WORK_AROUND` runs one with that work-around taken away.
"""

import logging
import os
import sys
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing

from peer import hardening
from peer.clock import now_us

if __name__ == "__main__":  # before host.py applies them
    hardening.WORK_AROUNDS = tuple(each for each in hardening.WORK_AROUNDS if each.__name__ != sys.argv[2])

from libp2p.host.exceptions import StreamFailure
from libp2p.network import swarm
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX
from libp2p.stream_muxer.yamux import yamux
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr

from peer.host import DialFailed, HostConfig, PeerStream, PortInUse, StreamLost, open_host

PATIENCE_S = 2 if __name__ == "__main__" else 10  # only a failing scenario waits this long
SMALL_BUFFER_BYTES = 16384
BUSY_S = 0.1
MINUTE_S = 60
MAX_TURNS = 5  # of the event loop, of both sides, for each packet


def patience():
    return trio.fail_after(PATIENCE_S)


@asynccontextmanager
async def opened(*, key=None, events=None, listen="/ip4/127.0.0.1/tcp/0", **config):
    """A host whose callbacks append (what, peer, ...) to `events`, and that echoes on /echo."""
    events = [] if events is None else events
    async with open_host(
        key or os.urandom(32),
        HostConfig((listen,), **config),
        on_peer_connected=lambda peer: events.append(("connected", peer)),
        on_peer_disconnected=lambda peer: events.append(("disconnected", peer)),
        on_handler_error=lambda *error: events.append(("error", *error)),
    ) as host:
        host.set_handler("/echo", echo)
        yield host


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def pair(**victim_config):
    """(victim, stranger), the stranger connected to the victim."""
    async with opened(**victim_config) as victim, opened() as stranger:
        with patience():
            await stranger.dial(victim.addresses[0])
            await victim.wait_connected(stranger.peer_id)
        yield victim, stranger


async def still_talks(host, peer):
    """A new stream on the connection there is carries bytes both ways."""
    with patience():
        stream = await host.open_stream(peer.peer_id, "/echo")
        await stream.send_all(b"still here?")
        assert await stream.receive_some() == b"still here?"
        await stream.aclose()


async def settled():
    await trio.testing.wait_all_tasks_blocked(0.05)


async def until(condition):
    with patience():
        while not condition():  # noqa: ASYNC110  a condition inside libp2p, where there is nothing to wait for
            await trio.sleep(0.01)


def muxed(host, other):
    return host._swarm.get_connections(ID.from_base58(other.peer_id))[-1].muxed_conn


def tcp(host, other):
    return muxed(host, other).secured_conn.conn.read_writer.read_write_closer.stream


def port_of(host):
    return int(host.addresses[0].split("/")[4])


@contextmanager
def not_reading(host, other):
    """`host` reads nothing from its connection to `other`, so that less than a window fits in between."""
    tcp(other, host).stream.socket.setsockopt(
        trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, SMALL_BUFFER_BYTES
    )
    stream = tcp(host, other)
    read = stream.read
    reading_again = trio.Event()

    async def wait(n=None):
        await reading_again.wait()
        return await read(n)

    stream.read = wait
    try:
        yield
    finally:
        del stream.read
        reading_again.set()


async def a_stream_handler_raises():
    async with pair() as (victim, stranger):

        async def handler(stream):
            raise ZeroDivisionError

        victim._libp2p.set_stream_handler("/boom", handler)
        await stranger.open_stream(victim.peer_id, "/boom")
        await settled()
        await still_talks(stranger, victim)


async def malformed_pubsub_bytes():
    async with pair() as (victim, stranger):
        for garbage in (b"\xff" * 7, os.urandom(40), b"\x0a\xff\xff\xff\xff\x0f"):
            stream = await stranger.open_stream(victim.peer_id, "/meshsub/1.1.0")
            await stream.send_all(encode_varint_prefixed(garbage))
        await settled()
        await still_talks(stranger, victim)


async def a_validator_raises():
    async with pair() as (victim, stranger):
        await victim.subscribe("topic", lambda *_: True, lambda *_: None)

        def validator(forwarder, message):
            raise ZeroDivisionError

        victim._pubsub.set_topic_validator("topic", validator, False)
        with patience():
            await stranger.wait_subscribed(victim.peer_id, "topic")
        await stranger.publish("topic", b"anything")
        await until(lambda: hardening.isolated["ZeroDivisionError"])
        await still_talks(stranger, victim)


async def a_message_signed_with_a_strange_key():
    async with pair() as (victim, stranger):
        await victim.subscribe("topic", lambda *_: True, lambda *_: None)
        stream = await stranger.open_stream(victim.peer_id, "/meshsub/1.1.0")
        strange = rpc_pb2.Message(
            data=b"x",
            topicIDs=["topic"],
            from_id=b"\x12\x20" + bytes(32),
            seqno=b"1",
            key=b"\x08\x00\x12\x01x",
            signature=b"x",
        )
        await stream.send_all(encode_varint_prefixed(rpc_pb2.RPC(publish=[strange]).SerializeToString()))
        await settled()
        await still_talks(stranger, victim)


async def writes_are_cancelled_inside_a_frame():
    async with pair() as (victim, stranger):
        for _ in range(3):
            with not_reading(victim, stranger):
                async with trio.open_nursery() as nursery:
                    stream = await stranger_opens(stranger, victim)
                    nursery.start_soon(stream.send_all, bytes(200_000))
                    await settled()  # half a frame is in the socket, and nobody reads it
                    nursery.cancel_scope.cancel()
            await still_talks(stranger, victim)


async def stranger_opens(stranger, victim):
    """A yamux stream opened without the victim's help, which is not reading just now."""
    connection = stranger._swarm.get_connections(ID.from_base58(victim.peer_id))[-1]
    return PeerStream(await connection.new_stream())


async def a_read_is_cancelled_with_bytes_in_its_hands():
    async with pair() as (victim, stranger):
        stream = await stranger.open_stream(victim.peer_id, "/echo")
        await stream.send_all(b"precious")
        await settled()
        async with stream._net.muxed_stream.window_lock, trio.open_nursery() as nursery:
            received = []

            async def read():
                received.append(await stream.receive_some())

            nursery.start_soon(read)
            await settled()
            nursery.cancel_scope.cancel()
        if not received:
            with patience():
                received.append(await stream.receive_some())
        assert received == [b"precious"]


async def bytes_come_to_a_machine_that_is_busy():
    heard = trio.open_memory_channel(1)

    async def listen(stream):
        while await stream.receive_some():
            await heard[0].send((stream.heard_us, now_us()))

    async with pair() as (victim, stranger):
        victim.set_handler("/listen", listen)
        stream = await stranger.open_stream(victim.peer_id, "/listen")
        for _ in range(2):  # a system that never stamped a packet begins to with one of the first
            with not_reading(victim, stranger):
                await stream.send_all(b"hello")
                await trio.sleep(BUSY_S)
            with patience():
                heard_us, read_us = await heard[1].receive()
        assert stream.left_us <= heard_us <= read_us - BUSY_S * 0.9e6, "they seem to have come late"


async def a_writer_waits_for_credit():
    class Sleepless:
        """What yamux sees of trio, with a sleep that never ends."""

        def __getattr__(self, name):
            return getattr(trio, name)

        async def sleep(self, seconds):
            await trio.sleep_forever()

    async with pair() as (victim, stranger):
        yamux.trio = Sleepless()
        try:
            total = 0

            async def count(stream):
                nonlocal total
                await settled()
                while data := await stream.receive_some():
                    total += len(data)
                await stream.send_all(b"done")

            victim.set_handler("/count", count)
            stream = await stranger.open_stream(victim.peer_id, "/count")
            with patience():
                await stream.send_all(bytes(3 * yamux.DEFAULT_WINDOW_SIZE))
                await stream.send_eof()
                assert await stream.receive_some() == b"done"
            assert total == 3 * yamux.DEFAULT_WINDOW_SIZE
        finally:
            yamux.trio = trio


async def opens_are_cancelled():
    async with pair() as (victim, stranger):
        await settled()
        slots = muxed(stranger, victim).stream_backlog_semaphore
        before = slots.value
        for _ in range(3):
            async with muxed(stranger, victim)._write_lock, trio.open_nursery() as nursery:
                nursery.start_soon(stranger.open_stream, victim.peer_id, "/echo")
                await settled()
                nursery.cancel_scope.cancel()
        for _ in range(3):  # and later, while it is being agreed what to speak
            with not_reading(victim, stranger):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stranger.open_stream, victim.peer_id, "/echo")
                    await settled()
                    nursery.cancel_scope.cancel()
        await settled()
        assert slots.value == before
        await still_talks(stranger, victim)


async def a_sender_ignores_its_window():
    async with pair() as (victim, stranger):
        victim.set_handler("/sleep", sleep_on)
        stream = await stranger.open_stream(victim.peer_id, "/sleep")
        frame = hardening._header(yamux.TYPE_DATA, 0, stream._net.muxed_stream.stream_id, 60_000) + bytes(
            60_000
        )
        connection = muxed(stranger, victim)
        try:
            for _ in range(8):
                await connection._write_frame(frame)
        except hardening.IOException:
            pass  # hung up on already
        await until(lambda: stranger.peer_id not in victim.connected())


async def a_frame_announces_more_than_was_granted():
    async with pair() as (victim, stranger):
        victim.set_handler("/sleep", sleep_on)
        stream = await stranger.open_stream(victim.peer_id, "/sleep")
        header = hardening._header(yamux.TYPE_DATA, 0, stream._net.muxed_stream.stream_id, 15 << 20)
        await muxed(stranger, victim)._write_frame(header)
        await until(lambda: stranger.peer_id not in victim.connected())


async def sleep_on(stream):
    await trio.sleep_forever()


async def a_peer_opens_hundreds_of_streams():
    async with pair() as (victim, stranger):
        for _ in range(200):
            await muxed(stranger, victim).open_stream()
        await settled()
        held = [stream for stream in muxed(victim, stranger).streams.values() if not stream.is_initiator]
        assert len(held) <= hardening.INBOUND_STREAMS_PER_CONNECTION


async def more_inbound_connections_come_and_go_than_there_are_places():
    async with opened(inbound_connections=3) as victim, opened() as stranger:
        victim._swarm._inbound_limiter = trio.CapacityLimiter(3)  # what stock libp2p counts with
        for _ in range(6):
            with patience():
                await stranger.dial(victim.addresses[0])
                await victim.wait_connected(stranger.peer_id)
                await stranger.disconnect(victim.peer_id)
            await until(lambda: not victim.connected())


async def one_address_floods():
    refused = []
    async with (
        opened(loopback_unlimited=False, handshake_s=60) as victim,
        opened() as honest,
        trio.open_nursery() as nursery,
    ):

        async def connect(_):
            with trio.socket.socket() as sock:
                await sock.bind(("127.0.0.2", 0))
                await sock.connect(("127.0.0.1", port_of(victim)))
                while await sock.recv(1000):
                    pass
                refused.append(sock)

        for number in range(200):
            nursery.start_soon(connect, number)
        await until(lambda: len(refused) == 200 - 8)
        with patience():
            await honest.dial(victim.addresses[0])
        nursery.cancel_scope.cancel()


async def a_frozen_peer_is_disconnected():
    async with pair() as (victim, frozen):
        with not_reading(frozen, victim):
            async with trio.open_nursery() as nursery:
                stream = await stranger_opens(victim, frozen)
                nursery.start_soon(ends_in_loss, stream)
                await settled()
                with patience():
                    await victim.disconnect(frozen.peer_id)
                assert not victim.connected()
        await settled()


async def ends_in_loss(stream):
    try:
        await stream.send_all(bytes(200_000))
    except StreamLost:
        return
    raise AssertionError("the write was not told that the connection is gone")


async def a_stream_is_opened_to_a_stranger_with_known_addresses():
    async with opened() as host, opened() as other:
        host._libp2p.get_peerstore().add_addrs(
            ID.from_base58(other.peer_id), [Multiaddr(other.addresses[0].rpartition("/p2p/")[0])], 60
        )
        with pytest.raises(swarm.SwarmException), patience():
            await host._libp2p.new_stream(ID.from_base58(other.peer_id), ["/echo"])
        assert not other.connected()


async def a_peer_exchange_names_a_third_peer():
    async with pair() as (victim, stranger), opened() as third:
        await victim.subscribe("topic", lambda *_: True, lambda *_: None)
        victim._libp2p.get_peerstore().add_addrs(
            ID.from_base58(third.peer_id), [Multiaddr(third.addresses[0].rpartition("/p2p/")[0])], 60
        )
        prune = rpc_pb2.ControlPrune(
            topicID="topic", peers=[rpc_pb2.PeerInfo(peerID=ID.from_base58(third.peer_id).to_bytes())]
        )
        rpc = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(prune=[prune]))
        stream = await stranger.open_stream(victim.peer_id, "/meshsub/1.1.0")
        await stream.send_all(encode_varint_prefixed(rpc.SerializeToString()))
        await settled()
        assert not third.connected()


async def dial(host, address):
    """As Host.dial does, or without the work-around as libp2p does."""
    if Swarm.dial_peer.__module__ == hardening.__name__:
        return await host.dial(address)
    where, _, peer = address.rpartition("/p2p/")
    host._libp2p.get_peerstore().add_addrs(ID.from_base58(peer), [Multiaddr(where)], 60)
    return await host._swarm.dial_peer(ID.from_base58(peer))


async def a_dial_has_no_head_start_to_wait_for():
    swarm._HAPPY_EYEBALLS_DELAY = 3600
    async with opened() as host, opened() as other:
        host._swarm.connection_config.max_connections_per_peer = 3  # libp2p's default
        with patience():
            await dial(host, other.addresses[0])


async def a_peer_comes_up_after_a_dial_failed():
    key = os.urandom(32)
    async with opened() as host:
        async with opened(key=key) as other:
            address = other.addresses[0]
        with pytest.raises((DialFailed, swarm.SwarmException)):
            await dial(host, address)
        async with opened(key=key, listen=address.rpartition("/p2p/")[0]):
            with patience():
                await dial(host, address)


async def nobody_asks_who_a_peer_is():
    asked = []
    async with opened() as host, opened() as other:

        async def identify(stream):
            asked.append(stream)

        for each in (host, other):
            each._libp2p.set_stream_handler("/ipfs/id/1.0.0", identify)
        with patience():
            await host.dial(other.addresses[0])
        await settled()
        assert not asked


async def a_negotiation_announces_a_gigabyte():
    async with opened(handshake_s=60) as victim:
        with patience():
            stranger = await trio.open_tcp_stream("127.0.0.1", port_of(victim))
            async with stranger:
                await stranger.send_all(b"\xff\xff\xff\xff\x03")
                while await stranger.receive_some():
                    pass


async def a_second_peer_wants_the_port():
    async with opened() as first:
        with pytest.raises(PortInUse):
            async with opened(listen=first.addresses[0].rpartition("/p2p/")[0]):
                raise AssertionError("two hosts on one port")


async def a_gossip_stream_is_negotiated_too_slowly_once():
    async with opened() as victim, opened() as stranger:
        new_stream, late = victim._libp2p.new_stream, []

        async def late_once(peer, protocols):
            if late:
                return await new_stream(peer, protocols)
            late.append(peer)
            raise StreamFailure("the answer did not come in time")

        victim._libp2p.new_stream = late_once
        await victim.dial(stranger.addresses[0])
        await until(lambda: late and late[0] in victim._pubsub.peers)


class Turns(trio.abc.Instrument):
    """Of the event loop."""

    taken = 0

    def before_io_wait(self, timeout):
        self.taken += 1


async def packets_come_and_go():
    async with pair() as (victim, stranger):
        stream = await stranger.open_stream(victim.peer_id, "/echo")
        await settled()
        turns, packets = Turns(), 50
        trio.lowlevel.add_instrument(turns)
        for _ in range(packets):
            await stream.send_all(b"ping")
            assert await stream.receive_some() == b"ping"
        trio.lowlevel.remove_instrument(turns)
        assert turns.taken <= MAX_TURNS * 2 * packets


async def a_connection_is_idle_for_minutes():
    class Hurried:
        def __getattr__(self, name):
            return getattr(trio, name)

        def move_on_after(self, seconds):
            return trio.move_on_after(0.001 if MINUTE_S / 2 <= seconds < float("inf") else seconds)

    pings, write = [], yamux.Yamux._write_frame

    async def counted(self, data):
        pings.extend([self] * (data[1] == yamux.TYPE_PING))
        await write(self, data)

    yamux.trio, yamux.Yamux._write_frame = Hurried(), counted
    try:
        async with pair():
            both_and_their_answers = 4
            await until(lambda: len(pings) >= both_and_their_answers)
            with patience():
                await settled()  # who pings each half minute never does
            assert len(pings) == both_and_their_answers
    finally:
        yamux.trio, yamux.Yamux._write_frame = trio, write


async def one_rpc_carries_a_hundred_messages():
    delivered = []
    async with pair() as (victim, stranger):
        await victim.subscribe("topic", lambda *_: True, lambda author, data: delivered.append(data))
        rpc = rpc_pb2.RPC(publish=[signed(stranger, "topic", number) for number in range(100)])
        stream = await stranger.open_stream(victim.peer_id, "/meshsub/1.1.0")
        await stream.send_all(encode_varint_prefixed(rpc.SerializeToString()))
        await settled()
        assert len(delivered) == 100


def signed(host, topic, number):
    key = host._libp2p.get_private_key()
    message = rpc_pb2.Message(
        data=b"%d" % number,
        topicIDs=[topic],
        from_id=ID.from_base58(host.peer_id).to_bytes(),
        seqno=number.to_bytes(8, "big"),
    )
    message.signature = key.sign(PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString())
    return message


async def a_connection_ends_and_nobody_logs():
    logger = logging.getLogger("libp2p")
    async with pair() as (victim, stranger):
        await stranger.disconnect(victim.peer_id)
        await until(lambda: not victim.connected())
    assert not any(type(handler) is logging.StreamHandler for handler in logging.getLogger().handlers)
    assert not logger.isEnabledFor(logging.CRITICAL)


# scenario: (the work-around it needs, a pattern of what is printed when that is missing)
SCENARIOS = {
    a_stream_handler_raises: (hardening.isolate_stream_handlers, "StreamLost|TooSlowError"),
    malformed_pubsub_bytes: (hardening.isolate_stream_handlers, "StreamLost|TooSlowError"),
    a_validator_raises: (hardening.isolate_service_tasks, "ZeroDivisionError"),
    a_message_signed_with_a_strange_key: (hardening.isolate_service_tasks, "Error"),
    writes_are_cancelled_inside_a_frame: (hardening.finish_cancelled_writes, "StreamLost|TooSlowError"),
    a_read_is_cancelled_with_bytes_in_its_hands: (hardening.keep_what_cancelled_reads_took, "TooSlowError"),
    bytes_come_to_a_machine_that_is_busy: (hardening.tell_when_bytes_came, "they seem to have come late"),
    a_writer_waits_for_credit: (hardening.wake_waiting_writers, "TooSlowError"),
    opens_are_cancelled: (hardening.return_cancelled_slots, "AssertionError"),
    a_sender_ignores_its_window: (hardening.enforce_receive_window, "TooSlowError"),
    a_frame_announces_more_than_was_granted: (hardening.enforce_receive_window, "TooSlowError"),
    a_peer_opens_hundreds_of_streams: (hardening.limit_inbound_streams, "AssertionError"),
    more_inbound_connections_come_and_go_than_there_are_places: (hardening.admit_inbound, "DialFailed"),
    one_address_floods: (hardening.admit_inbound, "TooSlowError"),
    a_frozen_peer_is_disconnected: (hardening.close_at_once, "TooSlowError"),
    a_stream_is_opened_to_a_stranger_with_known_addresses: (hardening.never_dial_unasked, "DID NOT RAISE"),
    a_peer_exchange_names_a_third_peer: (hardening.never_dial_unasked, "AssertionError"),
    a_dial_has_no_head_start_to_wait_for: (hardening.never_dial_unasked, "TooSlowError"),
    a_peer_comes_up_after_a_dial_failed: (hardening.never_dial_unasked, "negative cache"),
    nobody_asks_who_a_peer_is: (hardening.never_identify, "AssertionError"),
    a_negotiation_announces_a_gigabyte: (hardening.bound_negotiation, "TooSlowError"),
    a_second_peer_wants_the_port: (hardening.own_the_port, "two hosts on one port"),
    a_gossip_stream_is_negotiated_too_slowly_once: (hardening.gossip_with_whoever_stays, "TooSlowError"),
    packets_come_and_go: (hardening.take_free_locks_at_once, "AssertionError"),
    a_connection_is_idle_for_minutes: (hardening.measure_a_connection_once, "TooSlowError"),
    one_rpc_carries_a_hundred_messages: (hardening.hold_a_whole_rpc, "AssertionError"),
    a_connection_ends_and_nobody_logs: (hardening.log_nothing, "AssertionError"),
}

if __name__ == "__main__":
    trio.run({scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]])
