"""The latency report: what is read from a ledger, a journal and a run, the numbers of each figure, and the page."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from peer.cli import main
from peer.report import charts, document, page
from peer.report.document import (
    Attempt,
    BadDocument,
    Bar,
    Candidate,
    Document,
    Happening,
    Job,
    Lane,
    Mark,
    Part,
    Traffic,
)
from peer.report.figures import figures
from peer.report.history import NoHistory, history, phases
from peer.report.svg import Scale, escape, nice
from peer.report.timeaxis import TimeAxis
from peer.store.ledger import FILE as LEDGER
from peer.store.ledger import JobRecord, Ledger
from testnet import packets
from testnet import report as gathering
from testnet.outcome import Drawn, Happened, Outcome, Task
from testnet.report import CannotReport

NEAR, FAR, OWN = "12D3KooW" + "N" * 44, "12D3KooW" + "F" * 44, "12D3KooW" + "S" * 44
EVIL = "</script><img src=x onerror=alert(1)>\"'&\x1b[31m\u202e"
ASKED_US = 1_790_000_000_000_000
ZERO = "2026-09-21T14:13:20"  # ASKED_US
TITLES = (
    "Where the time went",
    "How long it took, by link",
    "Prediction against outcome",
    "Chosen against best in hindsight",
    "Failures and recoveries",
    "Control traffic",
    "An independent witness",
)
HEAVY = ("torch", "libp2p", "trio", "rich", "diffusers", "transformers", "numpy", "multiaddr", "PIL")


def span(name, start_us, us, critical=True):
    return {
        "span": name, "parent": None, "attempt": None, "observer": OWN, "start_us": start_us, "us": us,
        "critical": critical,
    }  # fmt: skip


TIMELINE = (
    span("submit", 0, 10_000),
    span("plan", 10_000, 1_000),
    span("dial", 11_000, 4_000),
    span("offer", 15_000, 20_000),
    span("wait", 16_000, 500, critical=False),
    span("step", 35_000, 60_000),
    span("step", 95_000, 64_000),
    span("transfer", 159_000, 30_000),
    span("check", 189_000, 9_000),
    span("new_in_a_later_version", 198_000, 1_000),
)


def candidate(peer, name, rtt_us, predicted_us, step_us):
    return {
        "peer": peer, "name": name, "rtt_us": rtt_us, "predicted_us": predicted_us,
        "spans": {"offer": rtt_us, "step": step_us, "transfer": rtt_us},
    }  # fmt: skip


def record(job="ab" * 8, name="near", **changes):
    settings = {
        "job": job,
        "created_us": ASKED_US,
        "state": "done",
        "request": {"width": 64, "height": 64, "steps": 2, "provider": NEAR},
        "timeline": TIMELINE,
        "candidates": (candidate(NEAR, name, 20_000, 180_000, 110_000), candidate(FAR, "far", 90_000, 250_000, 110_000)),
        "why": {
            "wall_us": 200_000,
            "unaccounted_us": 1_000,
            "chosen": NEAR,
            "provider": NEAR,
            "attempts": [{"peer": NEAR, "outcome": "done", "sentence": None, "predicted_us": 180_000}],
        },
    }  # fmt: skip
    return JobRecord(**{**settings, **changes})


def failed(name="near"):
    return record("cd" * 8, name, created_us=ASKED_US + 1_000_000, state="failed", outcome="Nobody answered.", why={},
                  timeline=(), candidates=(), request={"provider": None})  # fmt: skip


def entry(second, event, **more):
    return {"at": f"{ZERO[:-2]}{20 + second:09.6f}+00:00", "t_us": int(second * 1e6), "event": event, **more}


JOURNAL = (
    entry(-1, "started", peer=OWN, name="me"),
    entry(-0.5, "peer_known", peer=FAR, name="far", rtt_us=90_000),
    entry(2, "task_accepted", peer=FAR, attempt="01"),
    entry(2.5, "task_started", attempt="01"),
    entry(3, "task_finished", attempt="01", outcome="done"),
    entry(2, "task_accepted", peer=OWN, attempt="02"),
    entry(3, "task_finished", attempt="02", outcome="done"),
    entry(3.5, "left", peer=NEAR),
    entry(15 * 60 - 0.1, "left", peer=FAR) | {"at": "2026-09-21T15:13:20+00:00"},
)


@pytest.fixture
def home(tmp_path):
    """A peer's home: a job that was drawn, one that failed, and a journal around them."""
    folder = tmp_path / "home"
    ledger = Ledger(folder / LEDGER)
    ledger.put_job(record())
    ledger.put_job(failed())
    ledger.close()
    (folder / "journal.jsonl").write_text("".join(json.dumps(each) + "\n" for each in JOURNAL) + '{"half')
    return folder


@pytest.fixture
def peer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(["report", *arguments])
        out, err = capsys.readouterr()
        return exit_.value.code or 0, out, err

    return run


# --- a peer's history


def test_a_job_is_what_the_ledger_holds(home):
    drawn, lost = history(home, 10).jobs
    assert drawn == Job(
        job="ab" * 8,
        by="me",
        state="done",
        at_s=0.0,
        ended_s=0.2,
        provider="near",
        wall_us=200_000,
        predicted_us=180_000,
        unaccounted_us=1_000,
        steps=2,
        pixels=4096,
        step_us=62_000,
        phases_us={
            "plan": 11_000, "connect": 24_000, "draw": 124_000, "transfer": 30_000, "check": 9_000, "other": 1_000,
            "unaccounted": 1_000,
        },
        attempts=(Attempt("near", "done"),),
        candidates=(Candidate("near", 180_000, 20_000, 110_000), Candidate("far", 250_000, 90_000, 110_000)),
    )  # fmt: skip
    assert (drawn.rtt_us, drawn.at_once) == (20_000, True)
    assert (lost.state, lost.at_s, lost.wall_us, lost.sentence) == ("failed", 1.0, None, "Nobody answered.")


def test_what_happened_around_the_jobs_is_in_lanes(home):
    asked, drawn, peers = history(home, 10).lanes
    assert asked.bars == (Bar(0.0, 0.2, "job", "job abababab of me, drawn by near"),)
    assert asked.marks == (Mark(1.0, "bad", "job cdcdcdcd failed. Nobody answered."),)
    assert drawn.bars == (
        Bar(2.0, 2.5, "wait", "waiting, for far"),
        Bar(2.5, 3.0, "draw", "drawn for far: done"),
    )  # and not the task that it drew for itself
    assert [(mark.at_s, mark.kind, mark.what) for mark in peers.marks] == [
        (-1.0, "note", "this peer started"),
        (-0.5, "good", "far is known, 90 ms away"),
        (3.5, "bad", "near left"),
    ]  # what happened an hour later belongs to no job


def test_the_last_jobs_only(home):
    assert [job.state for job in history(home, 1).jobs] == ["failed"]


def test_peers_of_one_name_are_told_apart_by_the_ends_of_their_ids(home):
    ledger = Ledger(home / LEDGER)
    ledger.put_job(record(name="far"))
    ledger.close()
    names = [each.peer for each in history(home, 10).jobs[0].candidates]
    assert names == ["far (NNNNNN)", "far (FFFFFF)"]


def test_phases_partition_the_wall_time():
    assert sum(phases(TIMELINE, 200_000).values()) == 200_000
    assert phases((), 5) == {"unaccounted": 5}
    assert "unaccounted" not in phases((span("step", 0, 5),), 5)


def test_nothing_asked_is_nothing_to_report(tmp_path):
    with pytest.raises(NoHistory, match="nothing to report"):
        history(tmp_path, 10)
    assert list(tmp_path.iterdir()) == []  # and nothing was made there


# --- the numbers of the figures


def drawn(job, predicted_ms, took_ms, *, provider="near", rtt_ms=20, other=None, step_us=None, attempts=()):
    candidates = (Candidate(provider, predicted_ms * 1000, rtt_ms * 1000, 100_000),)
    return Job(
        job=job, by="me", state="done", at_s=0.0, ended_s=1.0, provider=provider, wall_us=took_ms * 1000,
        predicted_us=predicted_ms * 1000, steps=2, pixels=64, step_us=step_us, attempts=attempts,
        phases_us={"draw": took_ms * 800, "plan": took_ms * 200}, candidates=candidates + ((other,) if other else ()),
    )  # fmt: skip


def test_p90s_are_held_to_what_the_job_took_after_its_plan():
    jobs = [replace(drawn("a", 100, took_ms), p90_us=100_000) for took_ms in (125, 126)]
    tried = (Attempt("far", "lost"), Attempt("near", "done"))
    jobs += [drawn("b", 100, 80), replace(drawn("c", 9, 900, attempts=tried), p90_us=720_000)]
    assert figures(Part("p", "", jobs=tuple(jobs))).prediction.within_p90 == 0.6667


def test_predictions_are_held_to_what_the_first_peer_took():
    tried = (Attempt("far", "lost"), Attempt("near", "done"))
    found = figures(
        Part("p", "", jobs=(drawn("a", 100, 125), drawn("b", 100, 80), drawn("c", 9, 900, attempts=tried)))
    )
    assert [(point.x_ms, point.y_ms) for point in found.prediction.points] == [(100.0, 125.0), (100.0, 80.0)]
    assert (found.prediction.error_p50, found.prediction.error_p90) == (0.2, 0.25)
    assert found.prediction.ratios == {"p5": 0.8, "p25": 0.8, "p50": 0.8, "p75": 1.25, "p95": 1.25}
    assert found.wall_ms == {"p50": 125.0, "p90": 900.0, "p95": 900.0}
    assert found.phases_ms == {"draw": 100.0, "plan": 25.0}
    assert found.executed == 0.8


def test_hindsight_puts_predictions_right_with_the_speed_that_was_shown():
    slow = Candidate("far", 250_000, 90_000, steps_us=100_000)  # predicted to be slower: 250 ms
    jobs = (
        drawn("a", 200, 300, other=slow),
        drawn("b", 240, 260, provider="far", step_us=20_000),  # but a step took it 20 ms, and not 50
    )
    point = figures(Part("p", "", jobs=jobs)).hindsight.points[0]
    assert (point.x_ms, point.y_ms, point.sure) == (190.0, 300.0, True)
    alone = figures(Part("p", "", jobs=jobs[:1])).hindsight
    assert (alone.points[0].x_ms, alone.points[0].sure) == (250.0, False)  # it has shown nothing
    assert (alone.best_chosen, alone.lost_most_ms) == (0, 50.0)


def test_who_was_asked_and_failed_was_not_the_best():
    tried = (Attempt("far", "lost"), Attempt("near", "done"))
    job = drawn("a", 200, 300, other=Candidate("far", 100_000, 1, 1), attempts=tried)
    found = figures(Part("p", "", jobs=(job,))).hindsight
    assert (found.points[0].x_ms, found.best_chosen) == (300.0, 1)


def test_links_are_named_while_they_are_few_and_banded_when_they_are_many():
    few = figures(
        Part(
            "p", "", jobs=(drawn("a", 1, 300), drawn("b", 1, 100), drawn("c", 1, 50, provider="me", rtt_ms=0))
        )
    )
    assert few.by_link_ms == {"me, on its own device": [50.0], "me to near, 20 ms": [100.0, 300.0]}
    many = [drawn(str(n), 1, 100 + n, provider=f"p{n}", rtt_ms=n * 30) for n in range(8)]
    assert figures(Part("p", "", jobs=tuple(many))).by_link_ms == {
        "0 to 5 ms away": [100.0],
        "20 to 60 ms away": [101.0],
        "60 to 150 ms away": [102.0, 103.0, 104.0],
        "over 150 ms away": [105.0, 106.0, 107.0],
    }


def test_scales_have_round_ticks():
    assert Scale(0, 7, 0, 100).ticks(4) == [0, 2, 4, 6]
    assert Scale(40, 6000, 0, 100, log=True).ticks(9) == [50, 100, 200, 500, 1000, 2000, 5000]
    assert [nice(each) for each in (0.11, 1.0, 3, 7)] == pytest.approx([0.2, 1, 5, 10])
    assert Scale(1, 100, 0, 100, log=True)(10) == pytest.approx(50)


def test_long_idle_times_are_cut_out_of_a_history():
    axis = TimeAxis([(0, 10), (8, 12), (7200, 7210)], 120, 100, 500)
    assert len(axis.stretches) == 2
    assert 100 < axis(0) < axis(12) < axis(7200) < axis(7210) <= 500
    assert axis(12) - axis(0) > 100  # two hours of nothing take no room


# --- documents


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no JSON"),
        ("[1]", "not in the format"),
        ('{"format": "nearlight report 2"}', "not in the format"),
        ('{"format": "nearlight report 1", "title": "t"}', "parts"),
        ('{"format": "nearlight report 1", "title": 3, "parts": []}', "document.title"),
        ('{"format": "nearlight report 1", "title": "t", "parts": [{"name": "n"}]}', "about"),
        (
            '{"format": "nearlight report 1", "title": "t", "parts": [{"name": "n", "about": "", "jobs": [{"job": "a", '
            '"by": "b", "state": "done", "at_s": NaN}]}]}',
            r"parts\[0\].jobs\[0\].at_s",
        ),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_document_is_told(text, sentence):
    with pytest.raises(BadDocument, match=sentence):
        document.read(text.encode())


def test_a_document_comes_back_as_it_was(home):
    before = Document("t", (history(home, 10),))
    assert document.read(json.dumps(before.to_value()).encode()) == before


# --- the page


class Page(HTMLParser):
    """What a browser would make of it: the elements, and whether each is closed."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, words):
        self.words.append((self.open[-1] if self.open else "", words))

    def tags(self):
        return {tag for tag, _ in self.elements}


def everything(words="near"):
    """A part in which each figure has something to draw; `words` are a peer's, wherever a peer's may stand."""
    jobs = tuple(
        Job(
            job=words, by=words, state="done", policy=policy, at_s=n, ended_s=n + 1, provider=words, wall_us=900_000 + n,
            predicted_us=800_000, unaccounted_us=1, steps=2, pixels=9, step_us=9, phases_us={"draw": 900_000 + n},
            candidates=(Candidate(words, 800_000, 9_000), Candidate("b", 900_000, 90_000)),
        )
        for n, policy in enumerate(("peers", "peers", words))
    )  # fmt: skip
    jobs += (Job(words, words, "failed", 3.0, sentence=words, attempts=(Attempt(words, "lost", words),) * 2),)
    return Part(
        name=words,
        about=words,
        facts=(words,),
        jobs=jobs,
        lanes=(Lane(words, (Bar(0, 1, "draw", words),), (Mark(1, "bad", words),)),),
        happenings=(Happening(0.5, words, 0.9, recovered_ms=120.0),),
        expectations=(document.Expectation(words, ">= 1", "1", True), document.Expectation("b", "<= 1", "2", False)),
        traffic=Traffic(0.0, 1.0, (1000, 2000), (0, 5000), (document.PeerTraffic(words, 1500.0, 2500.0),)),
        witness=document.Witness(
            3000,
            0.02,
            (document.Witnessed(words, words, 9000, 5000, False),),
            (document.NotWitnessed(words, words), document.NotWitnessed("8", words), document.NotWitnessed("9", "b")),
        ),
        policies=(
            document.Policy(words, 0.5, 1.0, 2.0, 1.1, 1.2, 0.1, 90.0, 0.0, 0, {"render": 0.4}, {"idle_bytes_per_s": 9.0}),
        ),
    )  # fmt: skip


def test_the_page_has_every_figure_and_needs_nothing_else():
    text = page.page(Document("Report", (everything(),))).decode()
    found = Page(text)
    headings = [words for tag, words in found.words if tag == "h3"]
    assert set(TITLES) <= set(headings)
    assert {"How long it took, by policy", "Latency by policy", "Expectations"} <= set(headings)
    pictures = [given for tag, given in found.elements if tag == "svg" and given.get("role") == "img"]
    assert len(pictures) == 2 * 10 + 1  # narrow and wide; the time axis also as wide as the page
    assert all(given["aria-label"] for given in pictures)
    assert not {"link", "img", "iframe", "object", "use"} & found.tags()
    assert not re.search(r"""(src|xlink:href)=|url\(|@import|https?://""", text)
    assert all(given["href"].startswith("#") for tag, given in found.elements if tag == "a")
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("phases", [(), (document.Witnessed("1", "offer", 9000, 5000, False),)])
def test_what_the_witness_left_out_is_told_with_its_jobs_by_why(phases):
    why = "it was drawn where it was asked for", "no picture came of it"
    left_out = tuple(document.NotWitnessed(job, why[job == "3"]) for job in "237")
    part = Part("run", "", (), (), (), (), witness=document.Witness(3000, 0.02, phases, left_out))
    cells = [
        words for tag, words in Page(page.page(Document("Report", (part,))).decode()).words if tag == "td"
    ]
    assert cells[-6:] == [why[0], "2, 7", "2", why[1], "3", "1"]


def test_what_there_is_nothing_to_draw_of_is_named():
    found = Page(page.page(Document("Report", (Part("p", "It did nothing."),))).decode())
    named = {words.rstrip(".") for tag, words in found.words if tag == "b"}
    assert set(TITLES) <= named


def test_words_of_peers_are_words():
    text = page.page(Document(EVIL, (everything(EVIL), everything(EVIL)))).decode()
    found = Page(text)
    assert "img" not in found.tags()
    assert [tag for tag, _ in found.elements].count("script") == 2
    assert not any(name.startswith("on") for _, given in found.elements for name in given)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert any("<img src=x onerror=alert(1)>" in words for _, words in found.words)  # it is shown
    numbers = next(words for tag, words in found.words if words.startswith('{"title"'))
    assert json.loads(numbers)["parts"][0]["jobs"][0]["by"] == EVIL  # and told as it was


def test_a_policy_of_the_page_lets_no_other_script_run():
    found = Page(page.page(Document("t", (everything(),))).decode())
    policy = next(given["content"] for _, given in found.elements if given.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_one_slow_job_does_not_hide_the_others():
    jobs = (*(drawn(str(n), 100, 100) for n in range(9)), drawn("slow", 100, 9_000))
    bars = charts.phases(jobs, figures(Part("p", "", jobs=jobs)), 620)
    widths = [float(each) for each in re.findall(r'width="([\d.]+)" height="12" class="hot p-draw"', bars)]
    assert min(widths) > 50
    assert "9 s" in bars


def test_a_long_curve_is_drawn_to_its_end():
    drawn = charts.distribution({"x": [100.0 + n for n in range(500)]}, 620, "by link")
    assert drawn.count("L", drawn.index('d="')) >= 1000


def test_letters_that_no_page_should_hold_are_left_out():
    assert escape("a\nb\x00\u202e<") == "a\nb&lt;"
    assert len(escape("x" * 10_000)) == 600


# --- the command


def test_the_command_writes_a_page_and_prints_its_numbers(peer, home, tmp_path):
    code, out, _ = peer("--home", str(home), "-o", "r.html", "--json")
    told = json.loads(out.splitlines()[-1])
    assert (code, told["file"], len(told["parts"][0]["jobs"])) == (0, "r.html", 2)
    assert told["parts"][0]["figures"]["wall_ms"] == {"p50": 200.0, "p90": 200.0, "p95": 200.0}
    embedded = [
        words for _, words in Page((tmp_path / "r.html").read_text()).words if words.startswith('{"title"')
    ]
    assert json.loads(embedded[0])["parts"] == told["parts"]
    assert peer("--home", str(home)) == (0, "The report is nearlight-report.html.\n", "")
    assert peer("--home", str(home), "-o", "r.html")[0] == 0  # a newer report in place of an older one


def test_a_file_that_ends_in_svg_gets_where_the_time_went(peer, home, tmp_path):
    assert peer("--home", str(home), "-o", "time.svg")[0] == 0
    assert peer("--home", str(home), "-o", "time.svg")[0] == 0
    root = ElementTree.parse(tmp_path / "time.svg").getroot()
    assert root.tag.endswith("svg")
    assert any("draw: 124 ms" in (each.text or "") for each in root.iter())


def test_with_json_alone_no_file_is_made(peer, home, tmp_path):
    assert json.loads(peer("--home", str(home), "--json")[1])["file"] is None
    assert not list(tmp_path.glob("*.html"))


def test_what_is_no_report_is_not_replaced(peer, home, tmp_path):
    (tmp_path / "mine.html").write_text("<p>Mine.")
    code, _, err = peer("--home", str(home), "-o", "mine.html")
    assert (code, (tmp_path / "mine.html").read_text()) == (2, "<p>Mine.")
    assert "is no report" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--home", "empty"], 1, "Nothing was asked of this peer yet"),
        (["--home", "empty", "--json"], 1, "Nothing was asked of this peer yet"),
        (["--last", "0"], 2, "--last must be from 1"),
        (["--data", "none.json"], 2, "cannot be read"),
        (["--data", "."], 2, "cannot be read"),
        (["--data", __file__], 2, "holds no data of a report"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(peer, arguments, code, says):
    exit_code, _, err = peer(*arguments)
    assert exit_code == code
    assert says in err
    assert "Traceback" not in err


def test_a_damaged_ledger_is_a_sentence(peer, home):
    (home / LEDGER).write_bytes(b"no database" * 100)
    code, _, err = peer("--home", str(home))
    assert code == 4
    assert "is damaged" in err


def test_a_report_needs_nothing_heavy(home, tmp_path):
    code = (
        "import sys; from peer.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "report", "--home", str(home), "-o", "r.html"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr
    assert (tmp_path / "r.html").read_bytes().startswith(b"<!doctype html>")


# --- a run of the testnet


STARTED_US = 50_000_000


@pytest.fixture
def run(tmp_path, home):
    """A run that was kept: "me" asked "near", and the broker; "far" was killed and came back."""
    folder = tmp_path / "run"
    (folder / "peers").mkdir(parents=True)
    home.rename(folder / "peers" / "me")
    with (folder / "peers" / "me" / "journal.jsonl").open("a") as file:
        file.write(
            "\n" + json.dumps({"event": "planned", "job": "ab" * 8, "t_us": STARTED_US + 1_011_000}) + "\n"
        )
    jobs = (
        Drawn(
            0, "me", 0.4, 1.9, 0, "near", 200_000, 180_000, 1_000, (("near", "done"),), "", "ab" * 8, TIMELINE
        ),
        Drawn(1, "me", 2.0, 4.0, 1, None, None, None, None, (), "Nobody answered."),
        Drawn(2, "me", 3.0, 4.0, 0, "near", 500_000, None, None, (("near", "done"),), via="relayed"),
    )
    tasks = (
        Task("00", "far", "me", -3.0, -2.0, -1.0, "done"),
        Task("01", "far", "me", 1.0, 1.01),
        Task("02", "near", "me", 1.75, 1.8, 1.95, "done"),
    )
    events = (Happened(1.5, "kill", ("far",)), Happened(2.5, "restart", ("far",)))
    outcome = Outcome(jobs, tasks, events, ("me", "near", "far"), {}, True)
    result = {
        "scenario": "made_up", "about": "It happens.", "topology": "lan", "seed": 1, "emulated": True,
        "started_us": STARTED_US, "outcome": outcome.to_value(), "hosts": ["near", "far", "me"], "load_average": [1.0, 2.0],
        "paced_ms": {}, "paced_on_time": None,
        "judged": [{"what": "pictures drawn", "value": 0.5, "at_least": 1.0, "at_most": None, "ok": False}],
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_packets(folder, *sent):
    """(second, from, to, bytes): hosts as the result names them, in its order."""
    header = {
        "format": packets.FORMAT,
        "entry_bytes": packets.ENTRY.size,
        "hosts": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
    }
    with (folder / "packets").open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        for second, source, destination, size in sent:
            in_ns = STARTED_US * 1000 + round(second * 1e9)
            file.write(packets.ENTRY.pack(in_ns, in_ns, size, 0, 0, source, destination, 1, 2, 0, 0, size))


def test_a_run_is_gathered_from_its_result_and_its_requesters(run):
    part = gathering.gather(run)
    first, second, third = part["jobs"]
    assert (first["at_s"], first["ended_s"], first["policy"]) == (
        1.0,
        1.2,
        "peers",
    )  # by its timeline, on the run's clock
    assert first["phases_us"]["draw"] == 124_000
    assert (second["state"], second["sentence"], second["ended_s"]) == ("failed", "Nobody answered.", 4.0)
    assert (third["policy"], third["wall_us"], third["at_s"]) == ("broker, relayed", 500_000, 3.0)
    assert part["expectations"] == [
        {"what": "pictures drawn", "bound": ">= 1", "outcome": "0.5", "ok": False}
    ]
    kill, restart = part["happenings"]
    assert (kill["what"], kill["until_s"], kill["kind"]) == ("kill far", 2.5, "bad")
    assert kill["recovered_ms"] == pytest.approx(300)
    assert (restart["until_s"], restart["kind"], restart["recovered_ms"]) == (None, "good", None)
    lanes = {lane["name"]: lane for lane in part["lanes"]}
    assert [(bar["start_s"], bar["end_s"], bar["kind"]) for bar in lanes["far"]["bars"]] == [
        (1.01, 1.5, "lost")
    ]
    assert [bar["kind"] for bar in lanes["near"]["bars"]] == ["wait", "draw"]
    assert [bar["kind"] for bar in lanes["me"]["bars"]] == ["job", "lost", "job"]
    assert part["traffic"] is None  # there is no record of packets


def test_packets_are_control_unless_one_draws_for_the_other(run):
    write_packets(
        run,
        (-5.0, 0, 2, 999),  # before the clock started
        (0.5, 2, 0, 100),  # before the job
        (1.1, 2, 0, 300),  # while near draws for me
        (1.1, 1, 2, 50),  # meanwhile, of another peer
        (3.9, 0, 1, 70),
    )
    traffic = gathering.gather(run)["traffic"]
    assert (sum(traffic["control_bytes"]), sum(traffic["jobs_bytes"])) == (220, 300)
    assert traffic["jobs_bytes"][round(1.1 / traffic["bin_s"])] == 300
    by_peer = {each["peer"]: each["control_bytes_per_s"] for each in traffic["by_peer"]}
    assert by_peer == pytest.approx({"near": 170 / 4, "far": 120 / 4, "me": 150 / 4})


def test_a_run_is_drawn_by_a_process(run, tmp_path, capsys):
    arguments = ["report", str(run), "-o", str(tmp_path / "lab.html"), "--json"]
    from testnet.command import parse

    assert gathering.report(parse(arguments)) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["parts"][0]["figures"]["by_policy_ms"] == {"peers": [200.0], "broker, relayed": [500.0]}
    assert "made_up" in (tmp_path / "lab.html").read_text()


def test_a_simulation_is_a_part_too(tmp_path):
    policy = {
        "p50_s": 0.5, "p95_s": 1.0, "p99_s": 2.0, "ratio_p50": 1.1, "ratio_p95": 1.2, "refusals_per_request": 0.1,
        "messages_per_request": 90, "wasted_fraction": 0.0, "unfinished": 3, "where_s": {"wait": 0.1}, "mean_s": 1,
        "cdf": {"share": [0.1, 0.5, 0.99], "seconds": [0.2, 0.5, 2.0]},
        "cdf_by_link": {
            name: {"share": [0.5], "seconds": [0.4]}
            for name in ("20 to 60 ms away", "5 to 20 ms away", "over 150 ms away")
        },
    }  # fmt: skip
    world = {"peers": 9, "requesters": 5, "load": 0.6, "seeds": [1, 2], "rtt": "sphere"}
    (tmp_path / "s.json").write_text(
        "words\n" + json.dumps({"policies": {"nearlight": policy}, "world": world})
    )
    part = document.from_value(Part, gathering.simulated(tmp_path / "s.json"))
    assert part.policies[0].unfinished == 3
    assert list(part.policies[0].cdf_by_link) == ["5 to 20 ms away", "20 to 60 ms away", "over 150 ms away"]
    assert "9 providers, 5 requesters" in part.facts
    drawn = page.page(Document("t", (part,))).decode()
    for words in (
        "Latency by policy",
        "How long it took, by policy",
        "under nearlight, by link",
        "50% within 500 ms",
    ):
        assert words in drawn


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"outcome": 3}'])
def test_what_is_no_run_is_told(tmp_path: Path, text):
    with pytest.raises(CannotReport, match="holds no run"):
        gathering.runs_in(tmp_path)
    (tmp_path / "result.json").write_text(text)
    assert gathering.runs_in(tmp_path) == [tmp_path]
    with pytest.raises(CannotReport):
        gathering.gather(tmp_path)
    with pytest.raises(CannotReport):
        gathering.simulated(tmp_path / "result.json")
