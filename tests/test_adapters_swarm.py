"""Adapters between two real peers: the picture that comes is the one that was asked for, and says with what."""

import json
import re

import numpy
import pytest
from PIL import Image

from testnet.swarm import SwarmConfig, swarm

pytestmark = pytest.mark.slow

RED = "a red butterfly on white"


async def test_a_picture_with_an_adapter_and_a_rung_with_one(tmp_path):
    async with swarm(SwarmConfig(peers=2, providers=1)) as running:
        provider, requester = running.peers

        async def render(name, *arguments):
            path = tmp_path / f"{name}.png"
            result = await requester.run_cli(
                ["render", RED, "--remote", "--json", "--seed", "7", "-o", str(path), *arguments]
            )
            assert result.returncode == 0, result.stderr
            summary = json.loads(result.stdout.splitlines()[-1])
            assert "unaccounted_us" in summary
            return summary, numpy.asarray(Image.open(path).convert("RGB"), dtype=int)

        plain, first = await render("plain")
        styled, glass = await render("glass", "--adapter", "stained-glass")
        _, again = await render("again")
        few, quick = await render("few", "--adapter", "few-step")
        assert (first == again).all()
        assert plain["adapters"] == []
        assert [each["name"] for each in styled["adapters"]] == ["stained-glass"]
        assert numpy.abs(glass - first).mean() > 10  # leads everywhere
        assert [each["name"] for each in few["adapters"]] == ["few-step"]
        assert few["steps"] == 4
        assert numpy.abs(quick - first).mean() < numpy.abs(glass - first).mean() / 2
        spans = [each["span"] for each in styled["timeline"]]
        assert spans.index("load_adapter") < spans.index("step")
        assert styled["provider"] == few["provider"] == provider.peer_id

        # Too little time for all steps, and enough for few.
        within = f"{max(150, between_ms(styled, few))}ms"
        quote = await requester.run_cli(
            ["render", RED, "--remote", "--json", "--dry-run", "--within", within]
        )
        rung = json.loads(quote.stdout.splitlines()[-1])["rung"]
        assert re.match(
            r"Within .*: few-step adapter.* 4 steps instead of 12.* the adapter few-step", rung["sentence"]
        )
        summary, within_it = await render("within", "--within", within)
        assert [each["name"] for each in summary["adapters"]] == ["few-step"]
        assert summary["rung"]["sentence"].startswith("Within ")
        if within_it.shape == first.shape:
            assert numpy.abs(within_it - first).mean() < numpy.abs(glass - first).mean() / 2

        refined = await requester.run_cli(
            ["render", RED, "--remote", "--json", "--seed", "7", "-o", str(tmp_path / "soon.png"),
             "--within", within, "--refine"]
        )  # fmt: skip
        soon, later = map(json.loads, refined.stdout.splitlines())
        assert (soon["steps"], later["steps"]) == (4, 12)
        assert "rung" not in later or later["rung"] is None
        assert (numpy.asarray(Image.open(later["image"]).convert("RGB"), dtype=int) == first).all()

        unknown = await requester.run_cli(["render", RED, "--adapter", "nope"])
        assert unknown.returncode == 3
        assert "there are: few-step (" in unknown.stderr
        seen = await requester.run_cli(["swarm", "--json"])
        (row,) = [each for each in json.loads(seen.stdout)["peers"] if each["peer"] == provider.peer_id]
        assert {each["name"] for each in row["adapters"]} == {"few-step", "stained-glass"}


def between_ms(full, few):
    """What lies between twelve steps and four."""
    return (full["wall_us"] + few["wall_us"]) // 2000
