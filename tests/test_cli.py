import contextlib
import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types
from dataclasses import replace

import pytest
import trio

from peer.cli import main
from peer.cli.arguments import parse_guidance, parse_size, spread
from peer.cli.doctor import check_clock, check_disk, check_home, check_key, check_status
from peer.cli.files import Destination, destination, write_whole
from peer.cli.live import Live, total_range_us
from peer.cli.preview import half_blocks, shrink
from peer.cli.show import console, jobs_table, quote_table, swarm_table, timeline_rows, who
from peer.cli.up import lines
from peer.errors import NOBODY, UserError
from peer.picture import Bundle, embed
from protocol.policy.credits import PRESETS_MILLIONTHS
from protocol.wire.identity import peer_id_of, public_key_of
from protocol.wire.receipt import SignedReceipt

from .samples import NETWORK, PROVIDER_SEED, RECEIPT

OWN = peer_id_of(public_key_of(bytes([1]) * 32))
OTHER = peer_id_of(public_key_of(bytes([2]) * 32))
PNG = b"\x89PNG not really, the command does not look"
EVIL = "\x1b[31mlin\u202eden[bold]"  # what is left of it is text: "lin", "den[bold]" and the harmless "[31m"


def span(name, start_us, us, critical=True, attempt=None):
    return {
        "span": name,
        "parent": None,
        "attempt": attempt,
        "observer": OWN,
        "start_us": start_us,
        "us": us,
        "critical": critical,
    }


TIMELINE = [
    span("plan", 0, 1_000),
    *(span("step", 1_000 + 10_000 * n, 10_000) for n in range(20)),
    span("transfer", 201_000, 9_000),
]


def picture(index=0, seed=7):
    summary = {
        "job": "ab" * 16,
        "image": None,
        "sha256": "00" * 32,
        "width": 64,
        "height": 64,
        "seed": seed,
        "requester": OWN,
        "provider": OTHER,
        "provider_name": EVIL,
        "peers_known": 4,
        "checked": ["signature", "file", "pixels"],
        "asked_us": time.monotonic_ns() // 1000 - 211_000,
        "wall_us": 211_000,
        "unaccounted_us": 1_000,
        "timeline": TIMELINE,
        "candidates": [],
    }
    return "picture", {"picture": index, "seed": seed, "file": PNG, "summary": json.dumps(summary)}


JOB = ("job", {"job": "ab" * 16, "seeds": [7]})
ATTEMPT = ("attempt", {"picture": 0, "attempt": "cd" * 16, "peer": OTHER, "name": EVIL, "number": 1})
PROGRESS = (
    "progress",
    {
        "picture": 0,
        "number": 1,
        "step": 5,
        "steps": 20,
        "preview": {"width": 2, "height": 2, "rgb": bytes(12)},
        "elapsed_us": 50_000,
    },
)
FINISHED = ("finished", {"job": "ab" * 16, "done": 1, "failed": 0})


@pytest.fixture
def door(monkeypatch):
    """A running peer that answers with `door.events`, then raises `door.error`; what it was asked is remembered."""
    fake = types.SimpleNamespace(events=[], error=None, asked=[], answers=[])

    def ask(_connection, kind, body, on_event):
        fake.asked.append((kind, body))
        for event_kind, event in fake.events:
            fake.answers.append(on_event(event_kind, event))
        if fake.error is not None:
            raise fake.error

    monkeypatch.setattr("peer.door.knock", lambda _home: contextlib.nullcontext())
    monkeypatch.setattr("peer.door.ask", ask)
    return fake


@pytest.fixture
def peer(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEARLIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "72")

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(list(arguments))
        out, err = capsys.readouterr()
        return exit_.value.code or 0, out, err

    return run


def test_a_render_saves_the_picture_and_says_where_the_time_went(peer, door, tmp_path):
    door.events = [JOB, ATTEMPT, PROGRESS, picture(), FINISHED]
    code, out, err = peer(
        "render", "a gold spiral", "-o", "x.png", "--size", "64", "--guidance", "7.5", "--steps", "20"
    )
    assert (code, err) == (0, "")
    assert (tmp_path / "x.png").read_bytes() == PNG
    said = out.splitlines()
    assert said[0] == str(tmp_path / "x.png")
    assert "drawn by [31mlinden[bold] (.." in said[1]
    assert said[-1] == "checked: signature, file, pixels"
    assert any(line.startswith("  step x20") for line in said)
    assert any(line.strip().startswith("write_file") for line in said)
    assert max(map(len, said[2:])) <= 72
    ((kind, body),) = door.asked
    assert kind == "render"
    assert body.pop("~saves")
    assert body.pop("~asked_us") <= time.monotonic_ns() // 1000
    assert body == {
        "prompt": "a gold spiral",
        "negative": "",
        "model": None,
        "width": 64,
        "height": 64,
        "steps": 20,
        "guidance_millionths": 7_500_000,
        "sampler": None,
        "seed": None,
        "count": 1,
        "remote": False,
    }


def test_a_running_peer_is_told_from_one_that_takes_the_settings(peer, door):
    door.events = [JOB, picture(), FINISHED]
    _, _, err = peer("render", "x", "--device", "cpu", "--network", "art")
    assert "--device, --network changed nothing" in " ".join(err.split())
    _, _, err = peer("render", "y")
    assert "changed nothing" not in err


def test_json_ends_with_one_object_about_the_saved_file(peer, door, tmp_path):
    door.events = [JOB, ATTEMPT, PROGRESS, picture(), FINISHED]
    code, out, err = peer("render", "x", "--json")
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    summary = json.loads(line)
    assert summary["image"] == str(tmp_path / "nearlight-7-abababab.png")
    assert summary["sha256"] == hashlib.sha256(PNG).hexdigest()
    critical = sum(entry["us"] for entry in summary["timeline"] if entry["critical"])
    assert summary["wall_us"] - critical == summary["unaccounted_us"]
    deliver, write_file = summary["timeline"][-2:]
    assert [deliver["span"], write_file["span"]] == ["deliver", "write_file"]
    assert deliver["start_us"] == 211_000
    assert deliver["start_us"] + deliver["us"] == write_file["start_us"]
    assert write_file["start_us"] + write_file["us"] == summary["wall_us"]
    (saved,) = filter(None, door.answers)
    assert saved["us"] == write_file["us"]
    assert saved["start_us"] - summary["asked_us"] == write_file["start_us"]


def test_a_batch_is_numbered_and_its_object_lists_all(peer, door, tmp_path):
    drew = [{"peer": OTHER, "name": "linden", "pictures": 2}]
    account = {"wall_us": 3_000_000, "drew": drew, "copies": 0}
    finished = ("finished", {"job": "ab", "done": 2, "failed": 0, "batch": account})
    door.events = [JOB, picture(1, 8), ("batch", {"left_us": 1_000_000}), picture(0, 7), finished]
    code, out, _ = peer("render", "x", "--count", "2", "-o", "x.png", "--json")
    assert code == 0
    assert json.loads(out)["batch"] == account
    assert {path.name for path in tmp_path.glob("*.png")} == {"x-1.png", "x-2.png"}
    assert [each["seed"] for each in json.loads(out)["pictures"]] == [8, 7]
    said = " ".join(peer("render", "x", "--count", "2", "-o", "x.png", "--force")[1].split())
    assert "x-2.png seed 8, drawn by" in said
    assert f"2 pictures in 3.00 s: 2 by linden (..{OTHER[-8:]})." in said
    assert "Each is the same drawn alone with its seed" in said


def test_what_was_drawn_is_kept_when_the_rest_fails(peer, door, tmp_path):
    door.events = [JOB, picture(), ("failed", {"picture": 1, "sentence": "Nobody is left."})]
    code, out, err = peer("render", "x", "--count", "2", "-o", "x.png")
    assert code == 1
    assert (tmp_path / "x-1.png").exists()
    assert err.splitlines()[-1] == "1 of 2 pictures is missing. The last one: Nobody is left."
    assert str(tmp_path / "x-1.png") in out


def test_what_the_user_is_told_on_the_way_reaches_stderr_as_plain_text(peer, door):
    door.events = [
        JOB,
        ("told", {"picture": 0, "sentence": f"{EVIL} was lost; asking [red]oak."}),
        picture(),
        FINISHED,
    ]
    code, _, err = peer("render", "x")
    assert (code, err) == (0, "[31mlinden[bold] was lost; asking [red]oak.\n")


def test_errors_are_a_sentence_and_an_exit_code(peer, door):
    door.error = UserError("No peer can draw 4096x4096.", NOBODY)
    assert peer("render", "x") == (3, "", "No peer can draw 4096x4096.\n")
    code, out, _ = peer("render", "x", "--json")
    assert (code, json.loads(out)) == (3, {"error": "No peer can draw 4096x4096.", "exit_code": 3})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["render", "x", "--json", "--nonsense"], "No such option: --nonsense"),
        (["render", "--json"], "Missing argument 'PROMPT'"),
        (["jobs", "--json", "--limit", "many"], "'--limit'"),
        (["bogus", "--json"], "No such command 'bogus'"),
    ],
)
def test_wrong_usage_with_json_ends_with_an_object_too(peer, arguments, says):
    code, out, err = peer(*arguments)
    last = json.loads(out.splitlines()[-1])
    assert (code, last["exit_code"]) == (2, 2)
    assert says in last["error"]
    assert last["error"] in err


def test_an_existing_file_is_replaced_only_when_told(peer, door, tmp_path):
    door.events = [JOB, picture(), FINISHED]
    (tmp_path / "x.png").write_bytes(b"dear")
    code, _, err = peer("render", "x", "-o", "x.png")
    assert code == 2
    assert "--force" in err
    assert (tmp_path / "x.png").read_bytes() == b"dear"
    assert door.asked == []
    assert peer("render", "x", "-o", "x.png", "--force")[0] == 0
    assert (tmp_path / "x.png").read_bytes() == PNG


def test_a_name_taken_while_drawing_is_not_taken_away(tmp_path):
    into = destination(str(tmp_path / "x.png"), count=1, replace=False)
    (tmp_path / "x.png").write_bytes(b"dear")
    assert into.save(PNG, 1, seed=1, job="ab") == tmp_path / "x-2.png"
    assert (tmp_path / "x.png").read_bytes() == b"dear"


def test_without_hard_links_nothing_is_replaced_either(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))
    write_whole(tmp_path / "x.png", PNG, replace=False)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "x.png", b"other", replace=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").read_bytes() == PNG


def test_a_full_disk_is_a_sentence(peer, door, monkeypatch):
    door.events = [JOB, picture(), FINISHED]

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = peer("render", "x", "-o", "x.png")
    assert code == 1
    assert err.startswith("The picture was drawn but cannot be saved in ")
    assert err.endswith(": No space left on device.\n")


def test_a_disk_that_is_full_in_the_middle_of_a_batch_leaves_pictures_missing(peer, door, monkeypatch):
    door.events, save = [JOB, picture(0, 7), picture(1, 8), FINISHED], Destination.save

    def save_one(into, data, number, **more):
        if number > 1:
            raise OSError(28, "No space left on device")
        return save(into, data, number, **more)

    monkeypatch.setattr(Destination, "save", save_one)
    code, out, err = peer("render", "x", "--count", "2", "-o", "x.png")
    assert code == 1
    assert "1 picture in" in " ".join(out.split())
    said = err.splitlines()[-1]
    assert said.startswith(
        "1 of 2 pictures is missing. The last one: The picture was drawn but cannot be saved"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "--size", "0"], "multiple of 8"),
        (["x", "--size", "100x64"], "multiple of 8"),
        (["x", "--size", "8200"], "to 8192"),
        (["x", "--size", "big"], "--size must be like"),
        (["x", "--size", "-64"], "--size must be like"),
        (["x", "--steps", "0"], "--steps must be from 1 to 1000, not 0."),
        (["x", "--steps", "1001"], "--steps must be"),
        (["x", "--steps", "many"], "'--steps'"),
        (["x", "--guidance", "nan"], "--guidance must be a number from 0 to 100"),
        (["x", "--guidance", "101"], "--guidance must be"),
        (["x", "--guidance", "1e999999999"], "--guidance must be"),
        (["x", "--seed", "4294967296"], "--seed must be from 0 to 4294967295"),
        (["x", "--seed", "-1"], "--seed must be"),
        (["x", "--count", "0"], "--count must be from 1 to 1000"),
        (["x", "--sampler", "magic"], "There is no sampler 'magic'; there are ddim, euler, flow_euler."),
        ([""], "The prompt is empty"),
        ([" \n "], "The prompt is empty"),
        (["x" * 8193], "The prompt has 8193 bytes; at most 8192 are possible."),
        (["x" * 10_000_000], "The prompt has 10000000 bytes"),
        (["a\x1b[2Jb"], "control characters"),
        (["a\udcffb"], "not valid UTF-8"),
        (["x", "--negative", "\x07"], "The negative prompt contains control characters"),
        (["x", "-o", "nowhere/x.png"], "The folder nowhere for the picture does not exist."),
        (["x", "-o", "x.jpg"], "name it x.png"),
        (["x", "--model", "./nowhere"], "no such folder"),
        (["x", "--join", "localhost:4001"], "join must be an address like"),
        (["x", "--join", "/ip4/127.0.0.1/tcp/1/p2p/nobody"], "is not a peer id"),
        (["x", "--network", "A B"], "network must be"),
        (["x", "--nonsense"], "--nonsense"),
        ([], "'PROMPT'"),
    ],
)
def test_wrong_usage_is_a_sentence_before_anything_is_asked(peer, door, arguments, says):
    code, out, err = peer("render", *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err) < 400
    assert "Traceback" not in err
    assert door.asked == []


def test_a_folder_is_asked_for_by_its_absolute_path(peer, door, tmp_path):
    (tmp_path / "model").mkdir()
    door.events = [JOB, picture(), FINISHED]
    assert peer("render", "x", "--model", "model")[0] == 0
    assert door.asked[0][1]["model"] == str(tmp_path / "model")


def test_several_values_behind_one_option():
    one, two = "/ip4/1.2.3.4/tcp/1", "/dns4/a.b/tcp/2"
    assert spread(["up", "--join", one, two, "--provide"]) == [
        "up",
        "--join",
        one,
        "--join",
        two,
        "--provide",
    ]
    assert spread(["up", "--model", "a", "b", "--name", "c"]) == [
        "up",
        "--model",
        "a",
        "--model",
        "b",
        "--name",
        "c",
    ]
    assert spread(["render", "--join", one, two, "a spiral"]) == [
        "render",
        "--join",
        one,
        "--join",
        two,
        "a spiral",
    ]
    assert spread(["render", "--model", "a", "b"]) == ["render", "--model", "a", "b"]
    assert spread(["render", "--", "--join", one, two]) == ["render", "--", "--join", one, two]


def test_sizes_and_guidance():
    assert parse_size("512x768") == (512, 768)
    assert parse_size("64") == (64, 64)
    assert parse_guidance("3.1415926535") == 3_141_593
    assert parse_guidance("1e1") == 10_000_000


def test_ctrl_c_keeps_what_was_drawn_and_says_so(peer, door, tmp_path):
    door.events, door.error = [JOB, picture()], KeyboardInterrupt()
    code, _, err = peer("render", "x", "--count", "2")
    assert code == 130
    assert err.splitlines()[-1] == f"Cancelled. 1 picture is saved in {tmp_path}."
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_ctrl_c_with_json_tells_of_what_was_drawn_and_then_of_the_end(peer, door, tmp_path):
    door.events, door.error = [JOB, picture(1, 8), picture(0, 7)], KeyboardInterrupt()
    code, out, _ = peer("render", "x", "--count", "3", "-o", "x.png", "--json")
    saved, ended = map(json.loads, out.splitlines())
    assert [each["image"] for each in saved["pictures"]] == [str(tmp_path / f"x-{n}.png") for n in (2, 1)]
    assert (code, ended) == (
        130,
        {"error": f"Cancelled. 2 pictures are saved in {tmp_path}.", "exit_code": 130},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_hangs_up_on_the_running_peer_which_cancels(peer, monkeypatch, number):
    near, far = socket.socketpair(socket.AF_UNIX)
    monkeypatch.setattr("peer.door.knock", lambda _home: near)

    def ask(connection, *_):
        os.kill(os.getpid(), number)
        connection.recv(1)

    monkeypatch.setattr("peer.door.ask", ask)
    code, _, err = peer("render", "x")
    assert (code, err.splitlines()[-1]) == (130, "Cancelled.")
    assert far.recv(1) == b""
    far.close()


def test_ctrl_c_ends_a_short_lived_peer_too(peer, monkeypatch):
    closed = []

    async def ask_own(config, kind, body, on_event):
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            closed.append(kind)

    monkeypatch.setattr("peer.control.ask_own", ask_own)
    code, _, err = peer("render", "x")
    assert (code, closed) == (130, ["render"])
    assert err.startswith("Cancelling")


SWARM = {
    "peers": [
        {"peer": OTHER, "name": EVIL, "self": False, "device": "cpu", "models": ["[link=x]m"], "rtt_us": 1234,
         "jitter_us": 20, "wait_us": 0, "step_us": 10_000, "connected": True, "note": None},
        {"peer": OWN, "name": "oak", "self": True, "device": None, "models": [], "rtt_us": None,
         "jitter_us": None, "wait_us": None, "step_us": None, "connected": True, "note": None},
    ]
}  # fmt: skip


def drawn(renderable, width=100):
    screen = console()
    screen.file, screen.width = io.StringIO(), width
    screen.print(renderable)
    return screen.file.getvalue()


def test_the_swarm_is_a_table_that_a_peer_cannot_write_on(peer, door):
    text = drawn(swarm_table(SWARM["peers"], 140), 140)
    assert text.splitlines()[1].startswith("oak (..")
    assert "[31mlinden[bold]" in text
    assert "[link=x]m" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "1.23 ms ±20 us" in text
    assert "10.0 ms/step" in text
    door.events = [("swarm", SWARM)]
    assert json.loads(peer("swarm", "--json")[1]) == SWARM
    assert peer("swarm")[0] == 0


def test_tables_fit_narrow_terminals():
    for columns in 60, 80, 100, 200:
        rows = drawn(swarm_table(SWARM["peers"], columns), columns).splitlines()
        assert max(map(len, rows)) <= columns
        assert any("10.0 ms/step" in row for row in rows)
        assert len(rows) <= (9 if columns < 100 else 3)
    job = {"job": "ab" * 8, "created_us": 1_780_000_000_000_000, "state": "cancelled", "model": "0f" * 32,
           "provider": OTHER, "wall_us": None, "pictures": 1, "sentence": "Nobody who is there can draw it."}  # fmt: skip
    for columns, says in (80, ""), (100, "Nobody who"), (200, "Nobody who is there can draw it."):
        _, row = drawn(jobs_table([job], columns), columns).splitlines()
        assert says in row
        assert len(row) <= columns


def test_a_name_is_told_once():
    tail = OTHER[-6:]
    assert who("oak", OTHER) == who(f"oak ({tail})", OTHER) == f"oak (..{OTHER[-8:]})"
    assert who("", OTHER) == who(tail, OTHER) == f"..{OTHER[-8:]}"


def test_why_tells_of_attempts_that_failed_and_of_who_drew_it_in_the_end(peer, door):
    attempts = [
        {"number": 1, "peer": OTHER, "name": "oak", "outcome": "refused", "sentence": "It is busy."},
        {"number": 2, "peer": OWN, "name": "elm", "outcome": "done", "sentence": None, "why": "oak was late"},
    ]
    candidates = [{"peer": each, "rtt_us": 900, "predicted_us": 2000} for each in (OTHER, OWN)]
    report = {"job": "ab", "chosen": OTHER, "provider": OWN, "candidates": candidates, "attempts": attempts,
              "timeline": TIMELINE, "wall_us": 211_000}  # fmt: skip
    door.events = [("why", {"report": json.dumps(report)})]
    out = peer("why")[1]
    assert "Attempt 1, oak (.." in out
    assert "refused: It is busy." in out
    assert "), asked as well because oak was late, done" in out
    first, second = (line for line in out.splitlines() if "2.00 ms" in line)
    assert first.split()[-1] == "chosen"
    assert second.endswith("drew it")


def third(n):
    return peer_id_of(public_key_of(bytes([n]) * 32))


def why_of_many(**changes):
    """Of five that were predicted ever more."""
    candidates = [
        {"peer": third(n), "name": f"n{n}", "rtt_us": n * 1000, "predicted_us": n * 100_000,
         "spans": {"step": n * 90_000, "offer": n * 10_000, "wait": 0}}
        for n in range(1, 6)
    ]  # fmt: skip
    return {"job": "ab" * 8, "state": "done", "candidates": candidates, "chosen": third(1), "provider": third(1),
            "timeline": TIMELINE, "wall_us": 211_000, "sentences": []} | changes  # fmt: skip


def spans_said(out):
    return [line for line in out.splitlines() if line.startswith("  n")]


def test_why_says_what_was_predicted_of_the_best_and_of_who_was_chosen_and_who_drew_it(peer, door):
    best = [
        f"  n{n} (..{third(n)[-8:]}): step {90 * n}{'' if n > 1 else '.0'} ms, offer {10 * n}.0 ms"
        for n in range(1, 6)
    ]
    for changes, said in (
        ({}, best[:3]),
        ({"provider": third(2)}, best[:3]),
        ({"provider": third(5)}, [*best[:3], best[4]]),
        ({"chosen": third(4), "provider": third(5)}, best),
        ({"chosen": third(5), "provider": third(4)}, best),
        ({"chosen": {"peer": third(5)}, "provider": None}, [*best[:3], best[4]]),
    ):
        door.events = [("why", {"report": json.dumps(why_of_many(**changes))})]
        assert spans_said(peer("why")[1]) == said


def test_why_says_what_was_predicted_of_who_drew_it_but_was_not_known_when_the_job_was_planned(peer, door):
    done = {"number": 2, "peer": third(9), "name": "n9", "outcome": "done", "spans": {"step": 7_000}}
    lost = {"number": 1, "peer": third(8), "name": "n8", "outcome": "lost", "spans": {"step": 8_000}}
    report = why_of_many(provider=third(9), attempts=[lost, done])
    door.events = [("why", {"report": json.dumps(report)})]
    said = spans_said(peer("why")[1])
    assert len(said) == 4
    assert said[3] == f"  n9 (..{third(9)[-8:]}): step 7.00 ms"
    assert json.loads(peer("why", "--json")[1]) == report


def test_why_of_a_batch_in_its_own_words(peer, door):
    said = "Picture 3 of 8, whose turn came after 1.20 s, was there last: what follows is of it."
    report = why_of_many(
        picture=2, pictures=8, before_us=1_200_000, sentences=["8 pictures in 1.41 s.", said]
    )
    del report["candidates"]
    door.events = [("why", {"report": json.dumps(report)})]
    assert peer("why")[1].splitlines() == [
        "Job abababab (done) took 1.41 s.",
        "8 pictures in 1.41 s.",
        "Picture 3 of 8, whose turn came after 1.20 s, was there last: what",
        "  follows is of it.",
        "",
        *(f"  {row}" for row in timeline_rows(TIMELINE, 211_000, 70, "utf-8")),
    ]
    assert json.loads(peer("why", "--json")[1]) == report


def test_watch_asks_again_until_ctrl_c(peer, door, monkeypatch):
    door.events = [("swarm", SWARM)]
    asked = []

    def sleep(_):
        asked.append(len(door.asked))
        if len(asked) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("peer.cli.swarm.time", types.SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0))
    code, out, _ = peer("swarm", "--watch", "--json")
    assert (code, asked, len(out.splitlines())) == (0, [1, 2, 3], 3)


def test_jobs_cancel_and_why(peer, door):
    job = {"job": "ab" * 16, "created_us": 1_780_000_000_000_000, "state": "done", "model": "reference",
           "provider": OTHER, "wall_us": 211_000, "pictures": 1, "sentence": None}  # fmt: skip
    door.events = [("jobs", {"jobs": [job]})]
    assert "abababab " in peer("jobs")[1]
    assert "211 ms" in drawn(jobs_table([job], 120), 120)
    door.events = [("jobs", {"jobs": []})]
    assert peer("jobs")[1] == "No jobs yet.\n"
    door.events = [("cancelled", {"job": "ab" * 16})]
    assert peer("cancel", "AB")[1] == f"Cancelled job {'ab' * 16}.\n"
    assert door.asked[-1] == ("cancel", {"job": "ab"})
    code, _, err = peer("cancel", "../../x")
    assert (code, "not the beginning of a job's id" in err) == (2, True)
    report = {
        "job": "ab" * 16, "candidates": [{"peer": OTHER, "name": EVIL, "rtt_us": 900, "predicted_us": 200_000}],
        "chosen": OTHER, "exclusions": [{"peer": OWN, "sentence": "It has no model."}], "timeline": TIMELINE,
        "wall_us": 211_000, "avoidable": {"span": "transfer", "us": 9_000, "sentence": "9 ms went into it."},
        "sentences": ["It was the only one."],
    }  # fmt: skip
    door.events = [("why", {"report": json.dumps(report)})]
    code, out, _ = peer("why")
    assert code == 0
    for words in (
        "took 211 ms",
        "It was the only one.",
        "chosen",
        "It has no model.",
        "step x20",
        "Avoidable: 9 ms",
    ):
        assert words in out
    assert "\x1b" not in out
    assert json.loads(peer("why", "ab", "--json")[1]) == report


def test_id_makes_a_key_once(peer, tmp_path):
    code, first, _ = peer("id")
    assert code == 0
    assert first.startswith("12D3KooW")
    assert peer("id")[1] == first
    assert json.loads(peer("id", "--json")[1])["peer"] == first.strip()
    (tmp_path / "home" / "identity.key").write_text("not a key")
    code, _, err = peer("id")
    assert code == 4
    assert "does not hold a key" in err


def test_up_prints_how_to_join_with_real_addresses():
    outside, inside = f"/ip4/192.168.1.7/tcp/4001/p2p/{OWN}", f"/ip4/127.0.0.1/tcp/4001/p2p/{OWN}"
    said = lines("listening", {"addresses": [outside], "join": [outside, inside]}, "main")
    assert said[-1] == f"  peer up --join {outside}"
    assert (
        lines("listening", {"addresses": [], "join": [inside]}, "art")[-1]
        == f"  peer up --join {inside} --network art"
    )
    assert "\x1b" not in "".join(lines("connected", {"peer": OTHER, "name": EVIL}, "main"))


def test_verify_tells_a_picture_without_a_receipt_from_no_picture(peer, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    code, out, _ = peer("verify", "x.png")
    assert code == 1
    assert "no receipt" in out
    assert json.loads(peer("verify", "x.png", "--json")[1])["verdict"] == "no receipt"
    (tmp_path / "y.png").write_bytes(b"\0" * 100)
    code, _, err = peer("verify", "y.png")
    assert code == 2
    assert "cannot be read as a PNG" in err
    assert peer("verify", "nowhere.png")[0] == 2


def test_doctor_checks_tell_ok_from_warning_from_problem(tmp_path):
    home = tmp_path / "home"
    assert check_home(home).state == "ok"
    assert check_key(home).state == "ok"
    home.mkdir(mode=0o700)
    assert check_home(home).state == "ok"
    home.chmod(0o777)
    assert check_home(home).state == "warning"
    (home / "identity.key").write_text("x")
    assert check_key(home).state == "problem"
    assert check_clock(0).state == "problem"
    assert check_clock(1_800_000_000).state == "ok"
    assert check_disk(home / "not" / "there").what == "disk"
    status = {"peer": OWN, "name": "oak", "addresses": ["/ip4/127.0.0.1/tcp/1"], "peers_connected": 0,
              "peers_known": 0, "clock_notes": ["The clock of linden is an hour off."]}  # fmt: skip
    assert [finding.state for finding in check_status(status)] == ["ok", "warning", "warning", "warning"]


def test_doctor_exits_1_only_for_a_problem(peer, door, monkeypatch, tmp_path):
    devices = types.ModuleType("peer.renderer.devices")
    devices.detect = lambda: ()
    monkeypatch.setitem(sys.modules, "peer.renderer.devices", devices)
    monkeypatch.setattr("peer.cli.doctor.check_models", lambda *_: iter(()))
    door.error = UserError("No peer runs here.", NOBODY)
    code, out, _ = peer("doctor", "--json")
    report = json.loads(out)
    assert code == 1
    assert [finding["what"] for finding in report["findings"] if finding["state"] == "problem"] == ["device"]
    kind = types.SimpleNamespace(kind="cpu", name="a CPU", count=1, memory_mib=None, dtypes=("fp32",))
    devices.detect = lambda: (kind,)
    code, out, _ = peer("doctor")
    assert code == 0
    assert "memory unknown" in out


def test_the_preview_is_half_blocks_in_the_shape_of_the_picture():
    assert shrink(2, 2, bytes([0, 0, 0, 100, 100, 100, 100, 100, 100, 200, 200, 200]), 1, 1) == [
        [(100, 100, 100)]
    ]
    assert shrink(1, 1, b"abc", 32, 32) == [[(97, 98, 99)]]
    wide = half_blocks(64, 32, bytes(64 * 32 * 3))
    assert [len(row) for row in wide.plain.split("\n")] == [32] * 8
    assert len(half_blocks(64, 64, bytes(64 * 64 * 3)).plain.split("\n")) == 16
    with pytest.raises(ValueError, match="are not 2x2"):
        shrink(2, 2, b"", 32, 32)


def test_how_long_it_takes_is_a_range_that_never_lies_in_the_past():
    assert total_range_us(0, None, None) is None
    assert total_range_us(0, None, 1_000) == (850, 1_150)
    assert total_range_us(500, 1_500, 1_000) == (1_000, 2_000)
    assert total_range_us(5_000, 0, 1_000) == (5_000, 5_000)


def test_progress_in_a_terminal_is_one_line_with_a_preview(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Live(1) as live:
        assert live.line().startswith("choosing a peer")
        live.on_attempt(0, 1, "linden", 210_000)
        assert live.line().startswith("asking linden")
        live.on_attempt(0, 2, "oak", 110_000)  # beside it: which of the two draws, progress says
        live.on_progress(0, PROGRESS[1])
        assert "━━━━────────────" in live.line()
        assert "step 5/20 · linden" in live.line()
        assert "about 0.2 s in all" in live.line()
        live.on_progress(0, {**PROGRESS[1], "step": 10, "elapsed_us": 1_000_000})
        assert "1.0 to 2.9 s in all" in live.line()
        assert "▀▀" in drawn(live.draw())
        live.say("It was lost.")
    assert "It was lost." in terminal.getvalue()


def test_progress_of_a_batch_is_told_of_all_of_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stderr", Terminal())
    with Live(4) as live:
        assert "0 of 4 done · choosing peers" in live.line()
        for picture, name in enumerate(("oak", "linden", "oak")):
            live.on_attempt(picture, 1, name, 210_000)
            live.on_progress(picture, PROGRESS[1])
        live.on_batch(8_000_000)
        live.on_finished(0)
        said = live.line()
        assert said.startswith("━━━━──────────── 1 of 4 done · drawn by linden, oak · ")
        assert " s left" in said


def test_a_batch_of_which_nobody_knows_how_long_it_takes_says_nothing_of_it():
    live = Live(2)
    live.on_batch(1_000_000)
    assert "s left" in live.line()
    live.on_batch(None)
    assert "left" not in live.line()


def test_nothing_moves_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", plain_file := io.StringIO())
    with Live(1) as live:
        live.on_progress(0, PROGRESS[1])
    assert plain_file.getvalue() == ""


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_timeline_without_unicode_is_drawn_in_ascii():
    assert all(row.isascii() for row in timeline_rows(TIMELINE, 211_000, 60, "ascii"))
    assert all(len(row) <= 60 for row in timeline_rows(TIMELINE, 211_000, 60, "utf-8"))


HEAVY = ("torch", "libp2p", "trio", "rich", "diffusers", "transformers", "numpy", "multiaddr")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["render", "--help"], ["id"], ["verify", "x.png"], ["render", ""]]
)
def test_what_needs_nothing_heavy_imports_nothing_heavy(arguments, tmp_path):
    code = (
        "import sys; from peer.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    environment = {**os.environ, "NEARLIGHT_HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    # `verify` needs the protocol's receipts and no more; rich draws tables only.
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


@pytest.mark.parametrize("arguments", [["id"], ["--help"], ["id", "--wrong", "--json"]])
def test_a_reader_that_leaves_is_no_traceback(arguments, tmp_path):
    environment = {**os.environ, "NEARLIGHT_HOME": str(tmp_path)}
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.closing(os.fdopen(writer, "wb")) as gone:
        done = subprocess.run(
            [sys.executable, "-m", "peer", *arguments], stdout=gone, stderr=subprocess.PIPE, env=environment
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_a_terminal_without_the_letters_shows_others(door, monkeypatch, tmp_path):
    monkeypatch.setenv("NEARLIGHT_HOME", str(tmp_path))
    door.events = [("swarm", SWARM)]
    monkeypatch.setattr("sys.stdout", ascii_only := io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(SystemExit) as exit_:
        main(["swarm"])
    ascii_only.flush()
    assert exit_.value.code == 0
    assert b"1.23 ms" in ascii_only.buffer.getvalue()


# price, time and quality


def wishes_of(peer, door, *arguments):
    """What a render with these flags asks for, beside the picture."""
    door.events = [JOB, picture(), FINISHED]
    assert peer("render", "x", *arguments)[0] == 0
    return door.asked[-1][1].get("wishes")


def test_nothing_is_wished_unless_it_was_said(peer, door):
    assert wishes_of(peer, door) is None


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--near"], 1_000_000_000),
        (["--balanced"], 1_000_000),
        (["--cheap"], 1_000),
        (["--value-of-time", "0.5"], 500_000),
        (["--value-of-time", "0"], 0),
    ],
)
def test_the_value_of_time_is_said_in_credits_or_by_a_word(peer, door, arguments, value):
    assert wishes_of(peer, door, *arguments)["~value_of_time_millionths"] == value


def test_the_help_of_each_preset_is_the_value_of_time_that_it_stands_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["render", "--help"])
    said = capsys.readouterr().out
    for name, millionths in PRESETS_MILLIONTHS.items():
        line = next(line for line in said.splitlines() if line.strip().startswith(f"--{name} "))
        assert re.search(rf"--value-of-time {millionths / 1e6:g}\b", line)


@pytest.mark.parametrize(
    ("flag", "text", "us"),
    [
        ("--deadline", "2s", 2_000_000),
        ("--deadline", "1.5min", 90_000_000),
        ("--within", "300ms", 300_000),
        ("--within", "0.3 s", 300_000),
    ],
)
def test_times_have_their_unit(peer, door, flag, text, us):
    assert wishes_of(peer, door, flag, text)[f"~{flag[2:]}_us"] == us


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--near", "--cheap"], "--near and --cheap say different things of what time is worth: give one."),
        (["--cheap", "--value-of-time", "1"], "--cheap and --value-of-time say different things"),
        (["--value-of-time", "-1"], "--value-of-time must be from 0 to 1000000 credits a second, not '-1'."),
        (["--value-of-time", "nan"], "--value-of-time must be"),
        (["--value-of-time", "2 credits"], "--value-of-time must be"),
        (["--value-of-time", "1e999999999"], "--value-of-time must be"),
        (["--deadline", "0s"], "--deadline must be more than nothing and at most a day, not '0s'."),
        (["--deadline", "2"], "--deadline must be a time with its unit (us, ms, s, min), like 2s or 300ms, not '2'."),
        (["--deadline", "-2s"], "--deadline must be a time with its unit"),
        (["--deadline", "2h"], "--deadline must be a time with its unit"),
        (["--deadline", "99999min"], "at most a day"),
        (["--within", "0.0000001s"], "--within must be a time with its unit"),
        (["--within", "\u0663s"], "--within must be a time with its unit"),
        (["--within", "1s", "--deadline", "2s"], "--within gives up quality to be in time, and --deadline refuses"),
        (["--refine"], "--refine draws what --within gave up: it goes with --within"),
        (["--refine", "--deadline", "2s"], "it goes with --within"),
        (["--within", "1s", "--count", "2"], "--within is about one picture: it goes without --count."),
        (["--dry-run", "--size", "7"], "multiple of 8"),
    ],
)  # fmt: skip
def test_wrong_prices_and_times_are_sentences_before_anything_is_asked(peer, door, arguments, says):
    code, out, err = peer("render", "x", *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert door.asked == []


@pytest.mark.parametrize("price", ["-1", "cheap", "inf"])
def test_a_price_that_cannot_be_is_a_sentence(peer, price):
    code, out, err = peer("up", "--price", price)
    assert (code, out) == (2, "")
    assert "price must be " in err


def priced(**more):
    kind, event = picture()
    summary = (
        json.loads(event["summary"])
        | {"price_millionths": 5_200, "value_of_time_millionths": 1_000_000}
        | more
    )
    return kind, {**event, "summary": json.dumps(summary)}


def test_a_price_and_what_the_time_cost_are_said_and_that_no_credits_are_moved(peer, door):
    door.events = [JOB, priced(), FINISHED]
    said = " ".join(peer("render", "x")[1].split())
    assert "It cost 0.0052 credits, and " in said
    assert "at 1 credit a second. No credits are moved." in said
    door.events = [JOB, priced(price_millionths=0), FINISHED]
    assert "credit" not in peer("render", "y")[1]
    door.events = [JOB, priced(price_millionths=0, wished={"value_of_time_millionths": 1}), FINISHED]
    assert "It cost 0 credits" in peer("render", "z")[1]
    assert json.loads(peer("render", "j", "--json")[1])["price_millionths"] == 0


def test_a_picture_of_a_batch_is_late_by_when_it_was_asked_for_and_not_by_when_its_turn_came(peer, door):
    late = priced(price_millionths=0, wished={"deadline_us": 60_000_000}, before_us=90_000_000)
    door.events = [JOB, late, FINISHED]
    said = " ".join(peer("render", "x", "--count", "2", "--deadline", "60s")[1].split())
    assert "later than within 60.0 s, as was wanted." in said


def test_the_rung_that_was_taken_is_said_and_whether_it_was_in_time(peer, door):
    rung = {"name": "half", "given_up": "6 steps instead of 12", "within_us": 300_000,
            "sentence": "Within 300 ms: half of the steps, that is 6 steps instead of 12."}  # fmt: skip
    told = ("told", {"picture": None, "sentence": rung["sentence"]})
    door.events = [
        JOB,
        told,
        priced(price_millionths=0, rung=rung, wished={"within_us": 60_000_000}),
        FINISHED,
    ]
    _, out, err = peer("render", "x", "--within", "300ms")
    assert rung["sentence"] in " ".join(out.split())
    assert rung["sentence"] in err
    assert "later" not in out
    door.events = [JOB, told, priced(rung=rung, wished={"within_us": 30_000}), FINISHED]
    assert "later than within 30.0 ms, as was wanted." in " ".join(
        peer("render", "y", "--within", "30ms")[1].split()
    )


GAVE_UP = {
    "name": "half",
    "given_up": "6 steps instead of 12",
    "within_us": 300_000,
    "sentence": "Within 300 ms: ...",
}


def test_what_was_given_up_is_drawn_afterwards_from_the_same_seed(peer, door, tmp_path):
    door.events = [JOB, priced(rung=GAVE_UP), FINISHED]
    code, out, _ = peer("render", "x", "--within", "300ms", "--cheap", "--refine", "-o", "a.png")
    assert code == 0
    assert [line for line in out.splitlines() if line.endswith(".png")] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "a-refined.png"),
    ]
    (_, soon), (_, later) = door.asked
    assert soon["wishes"]["~within_us"] == 300_000
    assert later["wishes"] == {**soon["wishes"], "~within_us": None}
    assert (soon["seed"], later["seed"]) == (None, 7)
    same = set(soon) - {"seed", "wishes", "~asked_us"}
    assert {key: soon[key] for key in same} == {key: later[key] for key in same}
    for taken in ("a.png", "a-refined.png"):
        other = "b" + taken[1:]
        (tmp_path / other).write_bytes(b"")
        code, _, err = peer("render", "x", "--within", "300ms", "--refine", "-o", "b.png")
        assert (code, len(door.asked)) == (2, 2)
        assert f"{other} exists already; --force replaces it." in err
        (tmp_path / other).unlink()


@pytest.mark.parametrize("rung", [None, {**GAVE_UP, "given_up": ""}])
def test_where_nothing_was_given_up_nothing_is_refined(peer, door, rung):
    door.events = [JOB, priced(rung=rung), FINISHED]
    code, out, _ = peer("render", "x", "--within", "9s", "--refine", "--json")
    assert (code, len(door.asked), len(out.splitlines())) == (0, 1, 1)


def test_both_pictures_have_an_object_and_the_first_stays_when_the_second_fails(peer, door, tmp_path):
    door.events = [JOB, priced(rung=GAVE_UP), FINISHED]
    _, out, _ = peer("render", "x", "--within", "300ms", "--refine", "--json", "-o", "c.png")
    images = [json.loads(line)["image"] for line in out.splitlines()]
    assert images == [str(tmp_path / "c.png"), str(tmp_path / "c-refined.png")]

    class Failing(list):
        """The second job gives nothing."""

        def __iter__(self):
            if len(door.asked) % 2 == 0:
                raise UserError("Nobody can.", NOBODY)
            return super().__iter__()

    door.events = Failing(door.events)
    code, out, _ = peer("render", "x", "--within", "300ms", "--refine", "--json", "-o", "d.png")
    first, last = map(json.loads, out.splitlines())
    assert (code, first["image"]) == (3, str(tmp_path / "d.png"))
    assert last == {
        "error": f"Nobody can. The picture drawn in time is {tmp_path / 'd.png'}.",
        "exit_code": 3,
    }


QUOTE = {
    "width": 512, "height": 512, "steps": 20, "model": "0f" * 32, "value_of_time_millionths": 1_000_000, "count": 1,
    "candidates": [
        {"peer": OTHER, "name": EVIL * 3, "rtt_us": 1234, "predicted_us": 1_950_000, "p90_us": 2_150_000,
         "price_millionths": 1_300_000, "cost_millionths": 3_450_000, "spans": {"step": 1_900_000, "offer": 600}},
        {"peer": OWN, "name": "oak", "rtt_us": 0, "predicted_us": 12_300_000, "p90_us": 14_500_000,
         "price_millionths": 0, "cost_millionths": 14_500_000, "spans": {"wait": 10_200_000}},
    ],
    "exclusions": [{"peer": OWN, "name": "elm", "sentence": "It does not render for others."}],
    "sentence": "It was the dearer one.", "rung": None,
}  # fmt: skip


def test_a_dry_run_quotes_and_draws_nothing(peer, door, tmp_path):
    door.events = [("quote", QUOTE)]
    code, out, err = peer("render", "x", "--dry-run", "--near", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == QUOTE
    ((kind, body),) = door.asked
    assert kind == "quote"
    assert body["wishes"]["~value_of_time_millionths"] == 1_000_000_000
    _, out, _ = peer("render", "x", "--dry-run")
    said = " ".join(out.split())
    rows = ("1.95 s - 2.15 s", "1.3 ", "3.45", "14.5", "10.2 s")
    sentences = (
        "would be asked first, and would see the prompt",
        "It was the dearer one.",
        "No credits are moved",
    )
    for words in ("512x512, 20 steps", *rows, *sentences, "It does not render for others."):
        assert words in said
    assert "\x1b" not in out
    assert list(tmp_path.glob("*.png")) == []
    taken = tmp_path / "x.png"
    taken.write_bytes(b"dear")
    assert peer("render", "x", "--dry-run", "-o", "x.png")[0] == 0


def test_a_dry_run_of_a_batch_says_how_it_would_be_split(peer, door):
    peers = [{"peer": OTHER, "name": "linden", "pictures": 3}, {"peer": OWN, "name": "oak", "pictures": 1}]
    split = {"there_us": 12_300_000, "price_millionths": 3_900_000, "peers": peers}
    door.events = [("quote", {**QUOTE, "count": 4, "split": split})]
    said = " ".join(peer("render", "x", "--dry-run", "--count", "4")[1].split())
    assert f"Split by speed: 3 to linden (..{OTHER[-8:]}), 1 to oak (..{OWN[-8:]}); all 4 would be" in said
    assert "there in 12.3 s, for 3.9 credits. Each of them would see the prompt." in said
    assert "would be asked first" not in said


def test_a_quote_fits_sixty_columns(peer, door, monkeypatch):
    for columns in 60, 80, 200:
        rows = drawn(quote_table(QUOTE, columns), columns).splitlines()
        assert max(map(len, rows)) <= columns
        assert any("1.95 s - 2.15 s" in row for row in rows)
        assert ("1.23 ms" in "".join(rows)) == (columns >= 80)
    monkeypatch.setenv("COLUMNS", "60")
    door.events = [("quote", QUOTE)]
    assert max(map(len, peer("render", "x", "--dry-run")[1].splitlines())) <= 60


def test_verify_tells_price_and_what_the_time_cost(peer, tmp_path):
    from PIL import Image

    Image.new("RGB", (256, 256)).save(file := io.BytesIO(), "PNG")
    told = replace(
        RECEIPT,
        file=hashlib.sha256(file.getvalue()).digest(),
        file_bytes=len(file.getvalue()),
        price_millionths=5_200,
        latency_millionths=893_210,
    )
    signed = SignedReceipt.sign(told, network=NETWORK, private_key=PROVIDER_SEED)
    bundle = Bundle(NETWORK, signed.envelope.to_bytes())
    (tmp_path / "x.png").write_bytes(embed(file.getvalue(), bundle.to_bytes()))
    code, out, _ = peer("verify", "x.png")
    said = " ".join(out.split())
    assert code == 0
    assert (
        "price: 0.0052 credits, and the time it took was worth 0.893 credits to who asked; no credits are moved"
        in said
    )
    found = json.loads(peer("verify", "x.png", "--json")[1])
    assert (found["price_millionths"], found["latency_millionths"]) == (5_200, 893_210)


def test_nobody_to_quote_is_a_sentence(peer, door):
    door.error = UserError("Nothing can be had within 1.00 ms: the soonest ...", NOBODY)
    assert peer("render", "x", "--dry-run", "--within", "1ms")[0] == 3


def test_why_shows_predicted_spans_and_prices_where_there_are_any(peer, door):
    report = {
        "job": "ab",
        "candidates": QUOTE["candidates"],
        "chosen": OTHER,
        "timeline": TIMELINE,
        "wall_us": 211_000,
    }
    door.events = [("why", {"report": json.dumps(report)})]
    said = peer("why")[1]
    assert "price" in said
    assert "1.3 " in said
    assert "step 1.90 s, offer 600 us" in " ".join(said.split())
    free = [{**each, "price_millionths": 0} for each in QUOTE["candidates"]]
    door.events = [("why", {"report": json.dumps(report | {"candidates": free})})]
    assert "price" not in peer("why")[1]
