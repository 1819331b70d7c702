import socket
import types

import pytest
import trio

from peer import control, door
from peer.errors import CANCELLED, JOB_FAILED, NOBODY, UserError
from protocol.wire.frames import pack


async def asked(service):
    """The events of one request, over a socket as the command has it; UserError as the command has it."""
    events, failures = [], []
    near, far = socket.socketpair(socket.AF_UNIX)

    def ask():
        with near:
            door.ask(near, "swarm", {}, lambda *event: events.append(event))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(control._answer, trio.SocketStream(trio.socket.from_stdlib_socket(far)), service)
        try:
            await trio.to_thread.run_sync(ask)
        except UserError as exc:
            failures.append(exc)
    if failures:
        raise failures[0]
    return events


def answering(handle):
    return types.SimpleNamespace(handle=handle)


async def test_events_and_files_of_any_size_come_through_in_order():
    file = bytes(range(256)) * 8192

    async def handle(kind, _body, emit):
        emit("job", {"kind": kind})
        emit("picture", {"file": file})

    assert await asked(answering(handle)) == [("job", {"kind": "swarm"}), ("picture", {"file": file})]


async def test_what_cannot_be_done_is_a_sentence_and_its_code():
    async def handle(*_):
        async with trio.open_nursery():
            raise UserError("Nobody draws this.", NOBODY)

    with pytest.raises(UserError) as told:
        await asked(answering(handle))
    assert (told.value.sentence, told.value.exit_code) == ("Nobody draws this.", NOBODY)


async def test_a_fault_in_one_request_is_told_and_ends_that_request_only(capsys):
    async def handle(*_):
        raise ZeroDivisionError

    with pytest.raises(UserError, match="made a mistake") as told:
        await asked(answering(handle))
    assert told.value.exit_code == JOB_FAILED
    assert "ZeroDivisionError" in told.value.sentence
    assert "in handle" in capsys.readouterr().err


async def test_a_command_that_goes_away_cancels_what_it_asked_for():
    cancelled = trio.Event()

    async def handle(*_):
        try:
            near.close()
            await trio.sleep_forever()
        finally:
            cancelled.set()

    near, far = socket.socketpair(socket.AF_UNIX)
    near.sendall(pack(["render", {}]))
    await control._answer(trio.SocketStream(trio.socket.from_stdlib_socket(far)), answering(handle))
    assert cancelled.is_set()


async def test_what_a_command_does_not_read_is_bounded(monkeypatch):
    monkeypatch.setattr(control, "MAX_UNSENT_BYTES", 1 << 20)
    ended = []

    async def handle(_kind, _body, emit):
        try:
            for _ in range(100):
                emit("picture", {"file": bytes(1 << 20)})
        except UserError as exc:
            ended.append(exc.exit_code)
            near.close()
            raise

    near, far = socket.socketpair(socket.AF_UNIX)
    near.sendall(pack(["render", {}]))
    await control._answer(trio.SocketStream(trio.socket.from_stdlib_socket(far)), answering(handle))
    assert ended == [CANCELLED]


async def test_a_request_that_is_none_is_refused():
    near, far = socket.socketpair(socket.AF_UNIX)
    near.sendall(b"\xff" * 64)
    await control._answer(trio.SocketStream(trio.socket.from_stdlib_socket(far)), answering(None))
    assert b"error" in near.recv(4096)
    near.close()


async def test_a_peer_that_stops_before_it_answered_is_told():
    async def handle(*_):
        far.shutdown(socket.SHUT_RDWR)
        await trio.sleep_forever()

    near, far = socket.socketpair(socket.AF_UNIX)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(far.dup()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control._answer, stream, answering(handle))
        with pytest.raises(UserError, match="stopped before it answered"):
            await trio.to_thread.run_sync(door.ask, near, "swarm", {}, print)
    near.close()
    far.close()


def test_no_door_is_there_where_no_peer_runs(tmp_path):
    assert door.knock(tmp_path) is None


def test_the_socket_of_a_long_home_is_elsewhere_in_a_folder_of_its_own(tmp_path):
    assert door.socket_path(tmp_path / "home").is_relative_to(tmp_path)
    long = door.socket_path(tmp_path / ("x" * 150))
    assert len(str(long)) <= door.MAX_SOCKET_PATH_BYTES
    assert not long.is_relative_to(tmp_path)
    assert long != door.socket_path(tmp_path / ("y" * 150))
