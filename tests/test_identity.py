import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from peer.store.disk import create_file, replace_file
from peer.store.identity import (
    AlreadyRunning,
    BootEpochError,
    HomeLock,
    KeyFileError,
    load_or_create_identity,
    next_boot_epoch,
    peer_id,
)
from protocol.wire.identity import key_of_untrusted


def test_the_first_start_makes_a_key_for_its_owner_only(tmp_path):
    home = tmp_path / "a" / "home"
    seed = load_or_create_identity(home)
    assert len(seed) == 32
    assert load_or_create_identity(home) == seed
    assert stat.S_IMODE((home / "identity.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [path.name for path in home.iterdir()] == ["identity.key"]


def test_two_homes_are_two_peers(tmp_path):
    assert load_or_create_identity(tmp_path / "a") != load_or_create_identity(tmp_path / "b")


def test_a_peer_id_names_the_public_key_of_the_seed():
    # RFC 8032 section 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert key_of_untrusted(peer_id(seed)) == public


def test_starters_that_race_get_one_key(tmp_path):
    seeds = []
    threads = [
        threading.Thread(target=lambda: seeds.append(load_or_create_identity(tmp_path))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seeds) == 8
    assert len(set(seeds)) == 1


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path, mode):
    load_or_create_identity(tmp_path)
    path = tmp_path / "identity.key"
    before = path.read_bytes()
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"identity\.key .*mode {mode:04o}.*chmod 600"):
        load_or_create_identity(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"ab" * 32,
        b"AB" * 32 + b"\n",
        b"ab" * 33 + b"\n",
        b"g" * 64 + b"\n",
        b"\xff" * 65,
        b"ab" * 32 + b"\r",
    ],
)
def test_a_broken_key_file_is_named_and_kept(tmp_path, contents):
    path = tmp_path / "identity.key"
    create_file(path, contents)
    with pytest.raises(KeyFileError, match=r"identity\.key does not hold a key.*64 lower-case hexadecimal"):
        load_or_create_identity(tmp_path)
    assert path.read_bytes() == contents


def test_a_key_path_that_is_no_file_is_a_sentence(tmp_path):
    (tmp_path / "identity.key").mkdir()
    with pytest.raises(KeyFileError, match=r"cannot be used: Is a directory\."):
        load_or_create_identity(tmp_path)


def test_a_link_to_nowhere_is_not_written_through(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "identity.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="No such file"):
        load_or_create_identity(tmp_path / "home")
    assert not (tmp_path / "elsewhere").exists()


def test_a_home_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(KeyFileError, match="in a folder"):
        load_or_create_identity(tmp_path / "home")


def test_two_peers_cannot_share_a_home(tmp_path):
    with HomeLock(tmp_path):
        with pytest.raises(
            AlreadyRunning, match=rf"process {os.getpid()}, uses the home {tmp_path}"
        ) as refused:
            HomeLock(tmp_path).__enter__()
        assert refused.value.pid == os.getpid()
    with HomeLock(tmp_path):
        pass


def test_the_lock_of_a_killed_peer_is_free(tmp_path):
    code = (
        "import pathlib, sys; from peer.store.identity import HomeLock\n"
        "HomeLock(pathlib.Path(sys.argv[1])).__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning) as refused:
            HomeLock(tmp_path).__enter__()
        assert refused.value.pid == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with HomeLock(tmp_path):
        pass


def test_the_boot_epoch_grows_by_one_at_each_start(tmp_path):
    assert [next_boot_epoch(tmp_path) for _ in range(3)] == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["boot_epoch"]


@pytest.mark.parametrize("contents", [b"", b"-1\n", b"seven\n", b"9" * 30, str(2**64 - 1).encode(), b"1\n\n"])
def test_a_broken_boot_epoch_never_starts_over(tmp_path, contents):
    (tmp_path / "boot_epoch").write_bytes(contents)
    with pytest.raises(BootEpochError, match="higher than any before"):
        next_boot_epoch(tmp_path)
    assert (tmp_path / "boot_epoch").read_bytes() == contents


def test_files_are_replaced_whole_and_created_once(tmp_path):
    path = tmp_path / "file"
    create_file(path, b"one")
    with pytest.raises(FileExistsError):
        create_file(path, b"two")
    assert path.read_bytes() == b"one"
    replace_file(path, b"three")
    assert path.read_bytes() == b"three"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
