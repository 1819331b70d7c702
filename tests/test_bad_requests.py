"""What a person asks for and cannot have: a sentence, an exit code, and a peer that goes on."""

import pytest

from peer.cli.arguments import render_request
from peer.errors import JOB_FAILED, NOBODY, WRONG_USAGE, UserError
from peer.renderer.client import RenderFailed

from .asker import Asker
from .world import MODEL, OTHER_MODEL


async def draw(asker, **changes):
    """The events of one `peer render`, as (kind, body)."""
    asked = {
        "negative": "", "model": None, "size": None, "steps": 4, "guidance": None, "sampler": None,
        "seed": 7, "count": 1, "remote": True,
    }  # fmt: skip
    return await asker.ask(**render_request("a lighthouse", **asked | changes))


async def fails(asker, **changes):
    """The sentence and the exit code; the next picture is drawn nevertheless."""
    with pytest.raises(UserError) as told:
        await draw(asker, **changes)
    for other in asker.world.peers.values():
        other.renderer.error = other.renderer.refuses = None
    return told.value.sentence, told.value.exit_code


@pytest.fixture
async def asker(monkeypatch, world, alice, near, ledger):
    """In a world of two that may render."""
    await world.add("far")
    return Asker(monkeypatch, world, ledger)


def drawn(events):
    return [body for kind, body in events if kind == "picture"]


async def test_an_unknown_model_is_told_with_those_that_are_known(autojump_clock, asker):
    sentence, code = await fails(asker, model="nosuch")
    assert sentence == f"No model 'nosuch' is known here; there are: model ({MODEL.hex()[:8]})."
    assert code == NOBODY
    assert len(drawn(await draw(asker, model=MODEL.hex()[:8]))) == 1


async def test_a_name_that_two_models_have_is_asked_back(autojump_clock, asker):
    await asker.world.add("other", models=(OTHER_MODEL,))
    sentence, code = await fails(asker, model="model")
    assert sentence.startswith("Several models are called 'model': ")
    assert MODEL.hex()[:8] in sentence
    assert OTHER_MODEL.hex()[:8] in sentence
    assert code == WRONG_USAGE


async def test_a_folder_that_is_no_model_is_a_sentence(autojump_clock, asker, tmp_path):
    sentence, code = await fails(asker, model=str(tmp_path))
    assert str(tmp_path) in sentence
    assert code == WRONG_USAGE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": "8192"}, "The largest picture that anyone with this model accepts is 4194304 pixels"),
        ({"steps": 1000}, "The most steps that anyone with this model accepts is 200; 1000 were asked."),
    ],
)
async def test_what_nobody_accepts_is_refused_before_anyone_is_asked(autojump_clock, asker, changes, says):
    sentence, code = await fails(asker, **changes)
    assert sentence.startswith(says)
    assert code == NOBODY
    assert not any(peer.renderer.prompts for peer in asker.world.peers.values())


async def test_a_device_without_memory_is_told_and_draws_the_next_picture(autojump_clock, asker):
    told = "The renderer ran out of memory: a smaller picture may fit."
    for name in ("near", "far"):
        asker.world.peers[name].renderer.error = RenderFailed("out_of_memory", told)
    assert await fails(asker) == (told, JOB_FAILED)
    assert len(drawn(await draw(asker))) == 1


async def test_a_job_that_does_not_run_cannot_be_cancelled(autojump_clock, asker):
    with pytest.raises(UserError, match="No running job begins with 'abcd'"):
        await asker.service.handle("cancel", {"job": "abcd"}, lambda *_: None)


async def test_a_batch_is_drawn_with_seeds_that_count_on_past_their_end(autojump_clock, asker):
    events = await draw(asker, count=3, seed=2**32 - 1)
    assert {body["seed"] for body in drawn(events)} == {2**32 - 1, 0, 1}
    assert events[-1][0] == "finished"
    assert events[-1][1]["done"] == 3
