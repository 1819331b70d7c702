"""A host among hosts: real sockets, in one process unless a peer has to die or freeze."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from peer import host as host_module
from peer.host import (
    CannotListen,
    DialFailed,
    HostConfig,
    NotConnected,
    PortInUse,
    ProtocolRefused,
    StreamLost,
    open_host,
)
from protocol.wire.identity import peer_id_of, public_key_of

from .hardening_scenarios import (
    muxed,
    not_reading,
    opened,
    pair,
    patience,
    port_of,
    settled,
    sleep_on,
    still_talks,
    stranger_opens,
    tcp,
    until,
)

pytestmark = pytest.mark.slow
SERVE = """
import trio
from tests.hardening_scenarios import opened

async def serve():
    async with opened() as host:
        print(host.addresses[0], flush=True)
        await trio.sleep_forever()

trio.run(serve)
"""


@asynccontextmanager
async def another_process():
    """(process, address) of a host that echoes, in a process of its own."""
    command = [sys.executable, "-c", SERVE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220  a moment, in a test
    try:
        address = await trio.to_thread.run_sync(process.stdout.readline)
        yield process, address.strip()
    finally:
        process.kill()
        process.communicate()


# Identity and addresses


async def test_a_peer_id_is_that_of_the_key():
    key = bytes(range(32))
    async with opened(key=key) as host:
        assert host.peer_id == peer_id_of(public_key_of(key))
        assert host.addresses[0].endswith(f"/p2p/{host.peer_id}")
        assert "/tcp/0/" not in host.addresses[0]


async def test_an_unspecified_address_is_told_as_real_ones():
    async with opened(listen="/ip4/0.0.0.0/tcp/0") as host:
        assert host.addresses
        assert not any("/0.0.0.0/" in address for address in host.addresses)


@pytest.mark.parametrize(
    "changed",
    [{"listen": ()}, {"psk": b"short"}, {"connections_before_handshake": 0}, {"handshake_s": 0}],
)
def test_an_impossible_configuration_is_refused(changed):
    with pytest.raises(ValueError, match=r"."):
        HostConfig(**{"listen": ("/ip4/127.0.0.1/tcp/0",)} | changed)


@pytest.mark.parametrize("address", ["nonsense", "/ip4/127.0.0.1", "/ip4/198.51.100.7/tcp/4001"])
async def test_an_address_that_cannot_be_listened_on_is_refused(address):
    with pytest.raises(CannotListen):
        async with opened(listen=address):
            pass


async def test_the_port_is_free_once_the_host_is_closed():
    async with opened() as host:
        listen = host.addresses[0].rpartition("/p2p/")[0]
        with pytest.raises(PortInUse, match="another program already listens"):
            async with opened(listen=listen):
                pass
    async with opened(listen=listen):
        pass


async def test_what_the_body_raises_comes_out_as_it_was():
    with pytest.raises(KeyError, match="mine"):
        async with opened():
            raise KeyError("mine")


async def test_what_a_callback_raises_comes_out():
    def raises(peer):
        raise KeyError(peer)

    async def run():
        async with (
            opened() as other,
            open_host(
                os.urandom(32),
                HostConfig(("/ip4/127.0.0.1/tcp/0",)),
                on_peer_connected=raises,
                on_peer_disconnected=lambda peer: None,
                on_handler_error=print,
            ) as host,
        ):
            await host.dial(other.addresses[0])
            await trio.sleep_forever()

    with pytest.raises(KeyError), patience():
        await run()


# Dialling


async def test_dialling_twice_and_from_both_sides_is_one_connection_to_the_caller():
    events = []
    async with opened(events=events) as one, opened() as two:
        with patience():
            async with trio.open_nursery() as nursery:
                for dialler, dialled in ((one, two), (two, one), (one, two)):
                    nursery.start_soon(dialler.dial, dialled.addresses[0])
            assert await one.dial(two.addresses[0]) == two.peer_id
        assert one.connected() == {two.peer_id}
        await still_talks(one, two)
        await still_talks(two, one)
        await one.disconnect(two.peer_id)
        await until(lambda: not two.connected())
        assert events == [("connected", two.peer_id), ("disconnected", two.peer_id)]


async def refused_dial(host, address, **options):
    with pytest.raises(DialFailed) as caught, patience():
        await host.dial(address, **options)
    return caught.value.reason


async def test_each_way_a_dial_fails_has_a_reason():
    async with opened() as host:
        async with opened() as other:
            wrong = other.addresses[0].rpartition("/")[0] + "/" + peer_id_of(public_key_of(bytes(32)))
            assert "another peer answers" in await refused_dial(host, wrong)
            gone = other.addresses[0]
        assert "nothing listens" in await refused_dial(host, gone)
        assert "itself" in await refused_dial(host, host.addresses[0])
        for nonsense in ("", "nonsense", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1/p2p/" + host.peer_id):
            assert "is not an address" in await refused_dial(host, nonsense)
        with trio.socket.socket() as mute:
            await mute.bind(("127.0.0.1", 0))
            mute.listen()
            silent = f"/ip4/127.0.0.1/tcp/{mute.getsockname()[1]}/p2p/{other.peer_id}"
            assert "no answer within 0.2 s" in await refused_dial(host, silent, timeout_s=0.2)


async def test_a_private_swarm_talks_among_itself_only():
    psk = os.urandom(32)
    async with opened(psk=psk, handshake_s=0.5) as one, opened(psk=psk) as two, opened() as outsider:
        with patience():
            await two.dial(one.addresses[0])
        await still_talks(two, one)
        assert await refused_dial(outsider, one.addresses[0], timeout_s=2)
        assert outsider.peer_id not in one.connected()


# Streams


async def test_bytes_arrive_whole_both_ways_at_once():
    data = random.Random(1).randbytes(8 << 20)
    async with pair() as (one, two):
        stream = await two.open_stream(one.peer_id, "/echo")
        received = bytearray()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, data)
                while len(received) < len(data):
                    received += await stream.receive_some()
        assert received == data
        await stream.send_eof()
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_messages_that_were_read_at_once_have_each_its_own_time():
    async with pair() as (one, two):
        stream = await two.open_stream(one.peer_id, "/echo")
        echo = stream._net.muxed_stream
        sent = []
        for word in (b"first", b"second"):
            await stream.send_all(word)
            sent.append(stream.left_us)
            await until(lambda: len(echo.arrivals) == len(sent))
        heard = []
        for word in (b"first", b"second"):
            with patience():
                assert await stream.receive_some() == word
            heard.append(stream.heard_us)
        assert sent[0] <= heard[0] <= sent[1] <= heard[1]


async def test_what_came_together_can_be_taken_in_pieces():
    async with pair() as (one, two):
        stream = await two.open_stream(one.peer_id, "/echo")
        await stream.send_all(b"together")
        with patience():
            pieces = [await stream.receive_some(3) for _ in range(3)]
        assert pieces == [b"tog", b"eth", b"er"]


async def test_a_reset_is_not_an_end_of_stream():
    async with pair() as (one, two):

        async def reset(stream):
            await stream.receive_some()
            await stream.reset()

        one.set_handler("/reset", reset)
        stream = await two.open_stream(one.peer_id, "/reset")
        await stream.send_all(b"now")
        with pytest.raises(StreamLost), patience():
            await stream.receive_some()
        with pytest.raises(StreamLost):
            await stream.send_all(b"more")


async def test_a_lost_connection_is_not_an_end_of_stream():
    async with pair() as (one, two):
        stream = await two.open_stream(one.peer_id, "/echo")
        await one.disconnect(two.peer_id)
        with pytest.raises(StreamLost), patience():
            await stream.receive_some()
        await until(lambda: not two.connected())
        with pytest.raises(NotConnected):
            await two.open_stream(one.peer_id, "/echo")


async def test_a_protocol_nobody_handles_is_refused():
    async with pair() as (one, two):
        with pytest.raises(ProtocolRefused), patience():
            await two.open_stream(one.peer_id, "/unheard-of")
        await still_talks(two, one)


async def test_a_handler_that_raises_ends_its_stream_only():
    events = []
    async with pair(events=events) as (one, two):
        other = await two.open_stream(one.peer_id, "/echo")

        async def raises(stream):
            raise KeyError("whoops")

        one.set_handler("/raises", raises)
        stream = await two.open_stream(one.peer_id, "/raises")
        with pytest.raises(StreamLost), patience():
            await stream.receive_some()
        await until(
            lambda: (
                [event[:3] for event in events if event[0] == "error"] == [("error", two.peer_id, "/raises")]
            )
        )
        await other.send_all(b"still")
        assert await other.receive_some() == b"still"


async def test_a_cancelled_send_resets_that_stream_only():
    async with pair() as (one, two):
        one.set_handler("/sleep", sleep_on)
        stream = await two.open_stream(one.peer_id, "/sleep")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(1 << 20))
            await settled()
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"more")
        await still_talks(two, one)


async def test_cancelled_receives_lose_nothing():
    data = random.Random(2).randbytes(1 << 20)
    async with pair() as (one, two):
        stream = await two.open_stream(one.peer_id, "/echo")
        received = bytearray()

        async def receive():
            received.extend(await stream.receive_some(10_000))

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, data)
                cancelled = 0
                while len(received) < len(data):
                    with trio.move_on_after(0.0005) as scope:
                        await receive()
                    cancelled += scope.cancelled_caught
        assert received == data


async def test_one_task_sends_at_a_time():
    async with pair() as (one, two):
        one.set_handler("/sleep", sleep_on)
        stream = await two.open_stream(one.peer_id, "/sleep")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(1 << 20))
            await settled()
            with pytest.raises(trio.BusyResourceError):
                await stream.send_all(b"me too")
            nursery.cancel_scope.cancel()


async def test_closed_streams_leave_nothing_behind():
    async with pair() as (one, two):
        await settled()
        before = len(muxed(one, two).streams), len(muxed(two, one).streams)
        slots = muxed(two, one).stream_backlog_semaphore.value
        for _ in range(300):
            stream = await two.open_stream(one.peer_id, "/echo")
            await stream.aclose()
        await settled()
        assert (len(muxed(one, two).streams), len(muxed(two, one).streams)) == before
        assert muxed(two, one).stream_backlog_semaphore.value == slots


# Gossip


@asynccontextmanager
async def line(validate=lambda forwarder, author, data: True):
    """Three hosts, each connected to the next, all subscribed; and what each was delivered."""
    events, heard = [], {}
    async with opened(events=events) as one, opened(events=events) as two, opened(events=events) as three:
        for host in (one, two, three):
            heard[host] = []
            await host.subscribe(
                "topic", validate, lambda author, data, host=host: heard[host].append((author, data))
            )
        with patience():
            for host, other in ((one, two), (two, three)):
                await host.dial(other.addresses[0])
                await host.wait_subscribed(other.peer_id, "topic")
                await other.wait_subscribed(host.peer_id, "topic")
        yield one, two, three, heard, events


async def test_gossip_is_relayed_and_names_its_author():
    async with line() as (one, two, three, heard, _):
        await one.publish("topic", b"news")
        await until(lambda: heard[three])
        assert heard == {one: [], two: [(one.peer_id, b"news")], three: [(one.peer_id, b"news")]}


async def test_a_refused_message_goes_no_further():
    async with line(lambda forwarder, author, data: data != b"bad") as (one, two, three, heard, _):
        await one.publish("topic", b"bad")
        await one.publish("topic", b"good")
        await until(lambda: heard[three])
        assert heard[two] == heard[three] == [(one.peer_id, b"good")]


async def test_a_validator_that_raises_refuses_the_message_and_is_told():
    def validate(forwarder, author, data):
        return 1 / len(data) > 0

    async with line(validate) as (one, two, three, heard, events):
        await one.publish("topic", b"")
        await one.publish("topic", b"good")
        await until(lambda: heard[three])
        assert heard[two] == [(one.peer_id, b"good")]
        (error,) = [event for event in events if event[0] == "error"]
        assert error[1:3] == (one.peer_id, "topic")
        assert isinstance(error[3], ZeroDivisionError)


async def test_an_oversized_message_is_our_bug():
    async with opened() as host:
        with pytest.raises(ValueError, match="limit"):
            await host.publish("topic", bytes(host_module.RPC_BYTES))


@pytest.mark.parametrize("ours", [True, False])
async def test_a_restarted_peer_is_heard_because_its_sequence_goes_on(ours, monkeypatch):
    if not ours:
        now = int(time.time())  # what stock libp2p starts with, in both lives

        class Pubsub(host_module.Pubsub):
            counter = property(
                lambda self: self.stock, lambda self, value: setattr(self, "stock", min(value, now + 99))
            )

        monkeypatch.setattr(host_module, "Pubsub", Pubsub)
    key, heard = os.urandom(32), []
    async with opened() as listener:
        await listener.subscribe("topic", lambda *_: True, lambda author, data: heard.append(data))
        for life in (b"first", b"second"):
            async with opened(key=key) as speaker:
                if not ours:
                    speaker._pubsub.stock = now
                with patience():
                    await speaker.dial(listener.addresses[0])
                    await speaker.wait_subscribed(listener.peer_id, "topic")
                await speaker.publish("topic", life)
                await settled()
            await until(lambda: not listener.connected())
    assert heard == ([b"first", b"second"] if ours else [b"first"])


# Strangers


@asynccontextmanager
async def knocking(host):
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(host))
    async with stream:
        yield stream


async def hung_up(stream):
    """Reads until the other side has closed, in whatever manner."""
    with patience():
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            return


async def test_only_noise_is_offered():
    async with opened() as host, knocking(host) as stream:

        async def ask(protocol):
            await stream.send_all(bytes([len(protocol) + 1]) + protocol + b"\n")
            return await answer()

        async def answer():
            (size,) = await stream.receive_some(1)
            line = b""
            while len(line) < size:
                line += await stream.receive_some(size - len(line))
            return line.strip()

        with patience():
            assert await answer() == b"/multistream/1.0.0"
            await stream.send_all(b"\x13/multistream/1.0.0\n")
            for refused in (b"/plaintext/2.0.0", b"/secio/1.0.0", b"/tls/1.0.0"):
                assert await ask(refused) == b"na"
            assert await ask(b"/noise") == b"/noise"


def test_libp2p_itself_offers_plaintext():
    script = """
import libp2p
security = libp2p.new_swarm().upgrader.security_multistream
print([str(protocol) for protocol in security.transports])
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "/plaintext/2.0.0" in child.stdout


async def test_a_handshake_has_a_deadline_however_busily_it_dawdles():
    async with opened(handshake_s=0.3) as host, knocking(host) as idle, knocking(host) as loris:
        async with trio.open_nursery() as nursery:

            async def dawdle():
                line = b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(200)
                for byte in line:
                    try:
                        await loris.send_all(bytes([byte]))
                    except trio.BrokenResourceError:
                        return
                    await trio.sleep(0.02)

            nursery.start_soon(dawdle)
            await hung_up(idle)
            await hung_up(loris)
            nursery.cancel_scope.cancel()
        await until(lambda: host.statistics()["inbound"] == 0)


async def test_so_many_handshakes_at_once_and_no_more():
    async with opened(connections_before_handshake=2, handshake_s=60) as host, opened() as honest:
        async with knocking(host), knocking(host), knocking(host) as third:
            await hung_up(third)
            assert host.statistics()["inbound_handshaking"] == 2
        with patience():
            await honest.dial(host.addresses[0])


async def test_random_bytes_on_the_port_and_in_a_connection_hurt_nobody_else():
    dice = random.Random(3)
    async with pair() as (host, rude), opened() as honest:
        for size in (1, 2, 20, 200, 20_000):
            async with knocking(host) as stream:
                with contextlib.suppress(trio.BrokenResourceError, OSError):  # it may hang up at any moment
                    await stream.send_all(dice.randbytes(size))
                    await stream.send_eof()
                await hung_up(stream)
        with patience():
            await honest.dial(host.addresses[0])
        # A noise message of 100 bytes, but it is not.
        await tcp(rude, host).write(b"\0\x64" + dice.randbytes(100))
        await until(lambda: rude.peer_id not in host.connected())
        await still_talks(honest, host)


# Death and frost


async def test_a_killed_peer_is_missed():
    events = []
    async with opened(events=events) as host, another_process() as (process, address):
        with patience():
            peer = await host.dial(address)
            stream = await host.open_stream(peer, "/echo")
        process.kill()
        await until(lambda: ("disconnected", peer) in events)
        with pytest.raises(StreamLost), patience():
            await stream.receive_some()


async def test_a_frozen_peer_is_dropped_at_once_and_holds_up_nobody():
    async with another_process() as (process, address):
        async with opened() as host:
            with patience():
                peer = await host.dial(address)
                stream = await host.open_stream(peer, "/echo")
            process.send_signal(signal.SIGSTOP)
            async with trio.open_nursery() as nursery:

                async def send():
                    with pytest.raises(StreamLost):
                        await stream.send_all(bytes(1 << 20))

                nursery.start_soon(send)
                await settled()
                assert peer in host.connected()  # nobody can know yet
                with patience():
                    await host.disconnect(peer)
                assert peer not in host.connected()
        process.send_signal(signal.SIGCONT)


async def test_leaving_waits_for_no_frozen_peer():
    with contextlib.ExitStack() as frost, trio.CancelScope() as leaving:
        async with opened() as frozen, opened() as host:
            with patience():
                await host.dial(frozen.addresses[0])
                await frozen.wait_connected(host.peer_id)
            frost.enter_context(not_reading(frozen, host))
            stream = await stranger_opens(host, frozen)
            with trio.move_on_after(0.1):
                await stream.send_all(bytes(200_000))
            leaving.deadline = trio.current_time() + 3
    assert not leaving.cancelled_caught
