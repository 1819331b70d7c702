"""The testnet starts real peers, and whatever happens to it, none of them stays behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from testnet import command, demo, gallery, journals, processes
from testnet.swarm import ROOT, SwarmConfig, SwarmError, swarm

READY_WITHIN_S = 90  # on two cores that train a model at the same time
GONE_WITHIN_S = 5
DEMO_WITHIN_S = 120


def assert_gone(pids: list[int]) -> None:
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(left, timeout=GONE_WITHIN_S)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


# --- without processes


def test_a_follower_gives_each_complete_line_once_and_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / journals.FILE
    path.write_text('{"event": "of an earlier start"}\n')
    follower = journals.Follower(path)
    assert follower.new_entries() == []
    with path.open("a") as file:
        file.write('{"event": "a"}\nnot json\n{"eve')
        file.flush()
        assert follower.new_entries() == [{"event": "a"}]
        file.write('nt": "b"}\n')
    assert follower.new_entries() == [{"event": "b"}]
    assert follower.new_entries() == []


def test_a_follower_may_come_before_the_journal(tmp_path: Path) -> None:
    follower = journals.Follower(tmp_path / journals.FILE)
    assert follower.new_entries() == []
    (tmp_path / journals.FILE).write_text('{"event": "a"}\n')
    assert follower.new_entries() == [{"event": "a"}]


def test_last_lines_show_control_characters_instead_of_sending_them_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\ntwo\n\x1b[31mthree\n")
    assert journals.last_lines(tmp_path / "log", 2) == ["two", "\\x1b[31mthree"]
    assert journals.last_lines(tmp_path / "none", 2) == []


@pytest.mark.parametrize("settings", [{"peers": 0}, {"peers": 100_000}, {"peers": 3, "providers": 4}])
def test_an_impossible_swarm_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="peers"):
        SwarmConfig(**settings)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--peers", "1"],
        ["--peers", "many"],
        ["--wat"],
        ["--prompt", " "],
        ["--gallery", "--prompt", "a star"],
        ["--out", __file__],
    ],
)
def test_wrong_flags_of_the_demo_get_a_sentence_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.parse(arguments)
    assert caught.value.code == 2
    assert "scripts/demo: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["up", "--peers", "0"],
        ["up", "--peers", "2", "--providers", "3"],
        ["goodput", "--peers", "1"],
        ["goodput", "--rate", "0"],
        ["goodput", "--rtt-ms", "nan"],
        ["goodput", "--rtt-ms", "-3"],
    ],
)
def test_wrong_flags_of_the_testnet_get_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.parse(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_demo_names_a_picture_after_its_prompt_and_overwrites_none(tmp_path: Path) -> None:
    name = demo._file_name("A gold spiral,\x1b on ../NAVY!")
    assert name == "a-gold-spiral-on-navy"
    assert demo._file_name("???") == "picture"
    (tmp_path / "a.png").touch()
    (tmp_path / "a-2.png").touch()
    assert demo._unused(tmp_path / "a.png") == tmp_path / "a-3.png"


def test_a_record_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    (tmp_path / processes.RECORD).write_text('{"testnet": [1')
    assert processes.sweep(tmp_path) == []
    assert not (tmp_path / processes.RECORD).exists()


def test_a_pid_that_was_given_to_another_process_is_left_alone(tmp_path: Path) -> None:
    own = processes.mark(os.getpid())
    old = [own.pid, own.created_s - 100.0]
    (tmp_path / processes.RECORD).write_text(json.dumps({"testnet": old, "peers": [old]}))
    assert processes.sweep(tmp_path) == []


def test_two_testnets_do_not_share_a_home(tmp_path: Path) -> None:
    processes.record(tmp_path, [])
    with pytest.raises(processes.AlreadyUp, match=f"process {os.getpid()}"):
        processes.sweep(tmp_path)


# --- with processes


@pytest.mark.slow
def test_the_next_start_ends_what_an_earlier_one_left_behind(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as left:
        mark = processes.mark(left.pid)
        value = {"testnet": [mark.pid, mark.created_s - 100.0], "peers": [[mark.pid, mark.created_s]]}
        (tmp_path / processes.RECORD).write_text(json.dumps(value))
        assert processes.sweep(tmp_path) == [left.pid]
        assert left.wait(GONE_WITHIN_S) == -signal.SIGKILL
    assert not (tmp_path / processes.RECORD).exists()


@pytest.mark.slow
async def test_three_peers_know_each_other_and_none_is_left(tmp_path: Path) -> None:
    config = SwarmConfig(peers=3, providers=2, home=tmp_path / "net", ready_within_s=READY_WITHIN_S)
    async with swarm(config) as running:
        pids = [peer.pid for peer in running.peers]
        ids = {peer.peer_id for peer in running.peers}
        assert len(ids) == 3
        for peer in running.peers:
            assert peer.known >= ids - {peer.peer_id}
            assert peer.address.endswith(f"/p2p/{peer.peer_id}")
        assert [peer.provides for peer in running.peers] == [True, True, False]
        told = await running.peers[2].run_cli(["id"])
        assert told.returncode == 0
        assert running.peers[2].peer_id in told.stdout
    assert_gone(pids)
    assert not (tmp_path / "net" / processes.RECORD).exists()


@pytest.mark.slow
async def test_a_frozen_peer_is_ended_too(tmp_path: Path) -> None:
    async with swarm(SwarmConfig(peers=1, home=tmp_path / "net", ready_within_s=READY_WITHIN_S)) as running:
        pid = running.peers[0].pid
        os.kill(pid, signal.SIGSTOP)
    assert_gone([pid])


@pytest.mark.slow
async def test_a_peer_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    config = SwarmConfig(peers=2, home=tmp_path / "net", models=(tmp_path / "no-such-model",))
    with pytest.raises(SwarmError, match=r"(?s)Peer p0 left with exit code [1-9].*no-such-model"):
        async with swarm(config):
            pytest.fail("a peer without its model started")


def _two_peers(home: Path) -> subprocess.Popen[bytes]:
    """A testnet of two, whose first line on stdout says that they are ready."""
    return subprocess.Popen(
        [sys.executable, "-m", "testnet", "up", "--peers", "2", "--home", str(home), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )


@pytest.mark.slow
def test_peers_do_not_outlive_a_testnet_that_is_killed(tmp_path: Path) -> None:
    with _two_peers(tmp_path) as testnet:
        assert testnet.stdout is not None
        told = json.loads(testnet.stdout.readline())
        pids = [peer["pid"] for peer in told["peers"]]
        assert len(pids) == 2
        assert all(psutil.pid_exists(pid) for pid in pids)
        testnet.kill()
    assert_gone(pids)
    assert processes.sweep(tmp_path) == []


@pytest.mark.slow
def test_a_testnet_ends_with_its_peers_on_sigterm(tmp_path: Path) -> None:
    with _two_peers(tmp_path) as testnet:
        assert testnet.stdout is not None
        pids = [peer["pid"] for peer in json.loads(testnet.stdout.readline())["peers"]]
        testnet.terminate()
        assert testnet.wait(3 * GONE_WITHIN_S) == 0
    assert_gone(pids)


DEMO = [sys.executable, str(ROOT / "scripts" / "demo"), "--prompt", "a red [bold] circle"]
SUMMARY = {
    "image", "sha256", "width", "height", "requester", "provider", "peers_known", "checked", "wall_us",
    "unaccounted_us", "timeline", "candidates",
}  # fmt: skip


def _demo(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DEMO, "--out", str(tmp_path / "out"), *arguments],
        cwd=tmp_path,
        env=os.environ | {"NEARLIGHT_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_demo_draws_and_tells_of_it_in_one_object(tmp_path: Path) -> None:
    with _demo(tmp_path, "--peers", "3", "--json") as process:
        out, err = process.communicate(timeout=DEMO_WITHIN_S)
    assert process.returncode == 0, err
    (line,) = out.splitlines()
    told = json.loads(line)
    assert told.keys() >= SUMMARY
    picture = tmp_path / "out" / "a-red-bold-circle.png"
    assert told["image"] == str(picture)
    assert told["sha256"] == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert told["peers_known"] == 2
    assert told["provider"] != told["requester"]
    assert {entry["span"] for entry in told["timeline"]} >= {"plan", "offer", "step", "transfer", "check"}
    assert len(told["candidates"]) == 2
    assert all(each.keys() >= {"peer", "rtt_us", "predicted_us"} for each in told["candidates"])
    for words in (
        "3 of 3 peers know all the others",
        "unchanged: byte for byte",
        "step x",
        "All peers are stopped",
    ):
        assert words in err


def test_a_gallery_is_one_sheet_of_all_pictures_in_their_order(tmp_path: Path) -> None:
    colours = [(10 * number, 0, 255 - 10 * number) for number in range(len(gallery.PROMPTS))]
    pictures = [tmp_path / f"{number}.png" for number in range(len(colours))]
    for colour, picture in zip(colours, pictures, strict=True):
        Image.new("RGB", (256, 256), colour).save(picture)
    gallery.write_sheet(pictures, tmp_path / "sheet.png")
    step_px = gallery.SIDE_PX + gallery.GAP_PX
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 * step_px - gallery.GAP_PX, 3 * step_px - gallery.GAP_PX)
        middles = [(step_px * (k % 6) + 96, step_px * (k // 6) + 96) for k in range(len(colours))]
        assert [sheet.getpixel(middle) for middle in middles] == colours


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_and_its_peers(tmp_path: Path) -> None:
    with _demo(tmp_path, "--peers", "2") as process:
        assert process.stdout is not None
        while "asks the others" not in (line := process.stdout.readline()):
            assert line, process.communicate()[1]
        pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(pids) >= 2
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEMO_WITHIN_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert_gone(pids)
