"""The renderer: four families on tiny random weights, every refusal, and the life of its process."""

import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio
import trio.testing
from PIL import Image

from peer.clock import now_us
from peer.renderer.client import RenderCancelled, Renderer, RendererDied, RenderFailed
from peer.residents import Residents
from peer.store.models import scan_folder
from peer.wanted import of_batch
from peer.work import Work
from protocol.errors import RemoteProtocolError
from protocol.policy.speeds import SpeedBook
from protocol.wire.frames import FrameReader, pack
from protocol.wire.identity import peer_id_of, public_key_of
from protocol.wire.noise import normals
from protocol.wire.offer import Offer
from protocol.wire.receipt import pixel_hash
from protocol.wire.statement import Statement

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

MODEL = b"m" * 32
CANARY = "quokka heron"
FAMILIES = ("sd", "sdxl", "sd3", "flux")
SAMPLER = {"sd": "ddim", "sdxl": "euler", "sd3": "flow_euler", "flux": "flow_euler"}


def statement(**changes):
    plain = {
        "model": MODEL,
        "prompt": "gold, navy",
        "width": 32,
        "height": 48,
        "steps": 3,
        "guidance_millionths": 4_000_000,
        "sampler": "ddim",
        "seed": 3,
        "salt": bytes(16),
        "precision": "fp32",
    }
    return Statement(**{**plain, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    from tests import tiny_models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {family: tiny_models.build(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture
def sd_copy(folders, tmp_path):
    return shutil.copytree(folders["sd"], tmp_path / "model")


def draw(model, asked, *, on_step=lambda step, us, preview: None, cancelled=lambda: False):
    from peer.renderer import render

    spans = []
    watcher = render.Watcher(lambda *span: spans.append(span), on_step, cancelled)
    return render.render(model, asked, watcher), spans


def load(folder, variant=""):
    from peer.renderer import pipelines

    return pipelines.load(folder, "cpu", variant=variant)


def refusal(model, **changes):
    with pytest.raises(RenderFailed) as caught:
        draw(model, statement(**changes))
    return caught.value


# --- What is drawn


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_draws_what_its_pipeline_draws(folders, family):
    import diffusers
    import numpy
    import torch

    asked = statement(sampler=SAMPLER[family])
    previews = []
    picture, spans = draw(
        load(folders[family]), asked, on_step=lambda step, us, preview: previews.append(preview())
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.DiffusionPipeline.from_pretrained(folders[family], local_files_only=True)
    latents = torch.from_numpy(numpy.frombuffer(bytearray(normals(3, 4 * 12 * 8)), "<f4")).reshape(
        1, 4, 12, 8
    )
    if family == "flux":
        latents = pipe._pack_latents(latents, 1, 4, 12, 8)
    direct = pipe(
        asked.prompt, width=32, height=48, num_inference_steps=3, guidance_scale=4.0, latents=latents
    ).images[0]

    opened = Image.open(io.BytesIO(picture.file))
    assert (opened.format, opened.size) == ("PNG", (32, 48))
    assert opened.tobytes() == direct.tobytes()
    assert picture.pixels == pixel_hash(direct.tobytes(), width=32, height=48)
    assert [name for name, _, _ in spans] == [
        "encode_prompt",
        "noise",
        "prepare",
        *["step"] * 3,
        "decode",
        "encode_image",
    ]
    assert all(start + us == later for (_, start, us), (_, later, _) in itertools.pairwise(spans))
    if family == "sd":
        assert [(preview.width, preview.height, len(preview.rgb)) for preview in previews] == [
            (8, 12, 3 * 96)
        ] * 3
    else:
        assert previews == [None] * 3


def test_the_last_preview_of_a_flow_is_the_last_latent(folders, tmp_path):
    """The clean estimate at the last step is where the sampler ends; also through Flux's packing."""
    folder = shutil.copytree(folders["flux"], tmp_path / "flux")
    identity = {"weights": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], "bias": [0.5, 0.5, 0.5]}
    (folder / "preview.json").write_text(json.dumps(identity))
    model = load(folder)
    seen = []
    draw(model, statement(sampler="flow_euler"), on_step=lambda step, us, preview: seen.append(preview()))
    assert (seen[-1].width, seen[-1].height) == (8, 12)
    assert len(set(seen[-1].rgb)) > 10


def test_a_seed_is_a_picture_and_another_seed_another(folders):
    model = load(folders["sd"])
    first, again, other = (draw(model, statement(seed=seed))[0] for seed in (1, 1, 2))
    assert first == again
    assert first.pixels != other.pixels
    # One noise schedule.
    assert first.sigmas == other.sigmas == draw(model, statement(sampler="euler"))[0].sigmas
    assert first.sigmas != draw(model, statement(steps=4))[0].sigmas


def test_a_picture_of_a_batch_is_drawn_alone_bit_for_bit(folders):
    model = load(folders["sd"])
    third = of_batch(statement(seed=2**32 - 1), 2)
    drawn, _, alone = (
        draw(model, each)[0] for each in (third, of_batch(statement(seed=2**32 - 1), 1), statement(seed=1))
    )
    assert third.seed == 1
    assert third.salt != statement().salt
    assert alone == drawn


def test_sigmas_are_checked_where_the_statement_names_them(folders):
    model = load(folders["sd"])
    own = draw(model, statement())[0].sigmas
    assert draw(model, statement(sigmas=own))[0].sigmas == own
    assert "sigmas" in refusal(model, sigmas=bytes(32)).sentence


def test_sd3_draws_without_its_largest_encoder(tmp_path):
    from tests import tiny_models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_models.build_sd3(tmp_path, with_t5=False)
    assert draw(load(tmp_path), statement(sampler="flow_euler"))[0].steps_done == 3


# --- What is refused

LATE = re.compile("no 1000 steps|renders in fp32|not given")  # only the renderer knows


@pytest.mark.parametrize(
    ("family", "changes", "code", "words"),
    [
        ("sd", {"prompt": "g" * 15}, "prompt_too_long", "17 tokens long; this model reads 16"),
        ("sd", {"negative": "g" * 40}, "prompt_too_long", "negative prompt is"),
        ("sd", {"sampler": "flow_euler"}, "unsupported", "ddim or euler, not flow_euler"),
        ("flux", {"sampler": "ddim"}, "unsupported", "flow_euler, not ddim"),
        ("flux", {"sampler": "flow_euler", "negative": "red"}, "unsupported", "no negative prompt"),
        ("flux", {"sampler": "flow_euler", "prompt": "g" * 15}, "prompt_too_long", "17 tokens"),
        ("sd", {"negative": "red", "guidance_millionths": 1_000_000}, "unsupported", "does nothing"),
        ("sd3", {"sampler": "flow_euler", "steps": 1001}, "unsupported", "at most 1000 steps"),
        ("sd", {"steps": 1000}, "unsupported", "no 1000 steps"),  # "leading" steps with an offset end outside
        ("sd", {"precision": "bf16"}, "unsupported", "renders in fp32, not in bf16"),
        ("sd", {"adapters": ((b"a" * 32, 1),)}, "unsupported", "not given the adapter 61616161"),
        ("sd3", {"sampler": "flow_euler", "width": 28}, "unsupported", "multiples of 8 px, not 28x48"),
    ],
)
def test_what_cannot_be_drawn_exactly_is_refused(folders, family, changes, code, words):
    failed = refusal(load(folders[family]), **changes)
    assert (failed.code, failed.fault) == (code, "requester")
    assert words in failed.sentence
    assert "ggg" not in failed.sentence
    model, asked = scan_folder(folders[family]), statement(**changes)
    early = model.why_not(asked) or model.why_not_read(asked)  # without loading it, the same words
    if code == "prompt_too_long" or not LATE.search(words):
        assert (early.code, early.sentence) == (failed.code, failed.sentence)
    else:
        assert early is None


def test_a_black_picture_is_a_failure(folders):
    import torch

    model = load(folders["sd"])
    with torch.no_grad():
        model.pipe.vae.decoder.conv_out.bias.fill_(-1e4)
    assert refusal(model).code == "black_picture"
    with torch.no_grad():
        model.pipe.vae.decoder.conv_out.bias.fill_(float("nan"))
    assert refusal(model).code == "black_picture"


def change_tensors(folder, edit):
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def drop(tensors):
    del tensors["conv_in.bias"]


def add(tensors):
    tensors["conv_in.extra"] = tensors["conv_in.bias"].clone()


def reshape(tensors):
    tensors["conv_in.bias"] = tensors["conv_in.bias"][:-1].clone()


@pytest.mark.parametrize(
    ("edit", "words"),
    [(drop, "missing.*conv_in.bias"), (add, "unexpected.*conv_in.extra"), (reshape, "unet")],
)
def test_a_tensor_too_few_too_many_or_misshapen_is_refused(sd_copy, edit, words):
    from peer.renderer.pipelines import LoadFailed

    change_tensors(sd_copy, edit)
    with pytest.raises(LoadFailed) as caught:
        load(sd_copy)
    assert re.search(words, str(caught.value))


def only_pickles(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.bin"
    )


def unknown_pipeline(folder):
    edit(folder / "model_index.json", _class_name="ShapEPipeline")


def unknown_component(folder):
    edit(folder / "model_index.json", unet=["os", "system"])


def additional_component(folder):
    edit(folder / "model_index.json", controlnet=["diffusers", "ControlNetModel"])


def no_index(folder):
    (folder / "model_index.json").unlink()


def broken_scheduler(folder):
    (folder / "scheduler" / "scheduler_config.json").write_text("[" * 100_000)


def cut_weights(folder):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def wrong_preview(folder):
    (folder / "preview.json").write_text('{"weights": [[1, 2, 3]], "bias": ["a", 0, 0]}')


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (only_pickles, "unet has no safetensors file"),
        (unknown_pipeline, "its pipeline is none of"),
        (unknown_component, "its unet is not UNet2DConditionModel"),
        (additional_component, "'controlnet'"),
        (no_index, "model_index.json cannot be read"),
        (broken_scheduler, "scheduler_config.json is not JSON"),
        (cut_weights, "vae: "),
        (wrong_preview, "preview.json"),
    ],
)
def test_a_broken_folder_is_refused_with_a_sentence(sd_copy, breaks, words):
    from peer.renderer.pipelines import LoadFailed

    breaks(sd_copy)
    with pytest.raises(LoadFailed) as caught:
        load(sd_copy)
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def half_folder(tmp_path_factory):
    """Stable Diffusion's weights in files of the variant fp16."""
    import diffusers
    import torch

    from tests import tiny_models

    folder = tmp_path_factory.mktemp("half")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.DiffusionPipeline.from_pretrained(tiny_models.build("sd", folder / "whole"))
        pipe.to(dtype=torch.float16).save_pretrained(folder / "half", variant="fp16")
    return folder / "half"


async def test_the_weights_of_a_variant_are_drawn_with(half_folder, folders):
    model = scan_folder(half_folder)
    assert model.variant == "fp16"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in {file.path for file in model.files}
    assert "text_encoder/model.fp16.safetensors" in {file.path for file in model.files}
    drawn = draw(load(half_folder, "fp16"), statement())[0]
    assert drawn.steps_done == 3
    assert drawn.pixels != draw(load(folders["sd"]), statement())[0].pixels  # its numbers are rounded
    async with renderer(half_folder, model.variant) as one:
        rendered = await one.render(b"1" * 16, MODEL, statement().to_bytes(), ignore)
        assert rendered.pixels == drawn.pixels


def test_where_a_part_has_both_the_files_are_loaded_that_the_model_id_counts(half_folder, folders, tmp_path):
    mixed = shutil.copytree(half_folder, tmp_path / "mixed")
    name = "diffusion_pytorch_model.safetensors"
    shutil.copy(folders["sd"] / "unet" / name, mixed / "unet" / name)
    change_tensors(mixed, lambda tensors: tensors["conv_in.bias"].fill_(9))
    model = scan_folder(mixed)
    assert model.id == scan_folder(half_folder).id
    asked = statement()
    assert (
        draw(load(mixed, model.variant), asked)[0].pixels == draw(load(half_folder, "fp16"), asked)[0].pixels
    )


TEXTS = (
    "",
    "gold, navy",
    "  A   Lighthouse\tat\nnight,  it's 1999!! ",
    "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}stanbul caf\N{LATIN SMALL LETTER E WITH ACUTE} "
    "\N{CJK UNIFIED IDEOGRAPH-6C34} \N{OWL}\N{DEVANAGARI LETTER QA}",
    "<|startoftext|> <|endoftext|>",
    "word " * 200,
)


@pytest.mark.parametrize("family", ["sd", "flux"])
@pytest.mark.parametrize("tables", [False, True])
def test_tokens_are_counted_as_the_pipeline_counts_them(folders, tmp_path, family, tables):
    folder = shutil.copytree(folders[family], tmp_path / "model")
    path = folder / "tokenizer" / "tokenizer.json"
    if tables:  # what a folder of before has instead
        core = json.loads(path.read_text())["model"]
        (folder / "tokenizer" / "vocab.json").write_text(json.dumps(core["vocab"]))
        (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
        path.unlink()
    loaded, known = load(folder).abilities, scan_folder(folder).abilities
    assert len(loaded.readers) == len(known.readers)
    for inside, outside in zip(loaded.readers, known.readers, strict=True):
        assert inside.limit == outside.limit
        assert [inside.count(text) for text in TEXTS] == [outside.count(text) for text in TEXTS]
    assert replace(loaded, readers=()) == replace(known, readers=())


def test_versions_are_told_of_what_was_never_installed(tmp_path, monkeypatch):
    from peer import __version__
    from peer.renderer.__main__ import _version, environment

    (tmp_path / "a_module_on_the_path.py").write_text("__version__ = '3.4'")
    monkeypatch.syspath_prepend(tmp_path)
    assert _version("a_module_on_the_path") == "3.4"
    assert environment().startswith(f"nearlight {__version__}; python ")
    assert "unknown" not in environment()


def test_a_safety_checker_that_a_folder_names_is_not_loaded(sd_copy):
    edit(
        sd_copy / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    assert load(sd_copy).pipe.safety_checker is None


def test_an_unexpected_exception_tells_its_type_and_nothing_of_the_prompt():
    import torch

    from peer.renderer.__main__ import _failure

    internal = _failure(KeyError(CANARY))
    assert (internal.code, internal.fault) == ("internal", "provider")
    assert "KeyError" in internal.sentence
    assert CANARY not in internal.sentence
    cpu = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    for exc in (torch.OutOfMemoryError(CANARY), cpu, MemoryError()):
        assert _failure(exc).code == "out_of_memory"


def test_a_full_pipe_is_not_waited_for():
    from peer.renderer.__main__ import Pipe

    ours, theirs = socket.socketpair()
    with ours, theirs:
        pipe = Pipe(theirs)
        assert pipe.writable()
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                theirs.send(bytes(4096))
        assert not pipe.writable()


# --- Its process


@asynccontextmanager
async def renderer(folder, variant=""):
    """A running renderer with the model loaded; nothing of it is left afterwards."""
    one = Renderer("cpu")
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        assert one.pid is None  # lazily started
        await one.load(folder, MODEL, variant)
        pid = one.pid
        try:
            yield one
        finally:
            nursery.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def ignore(step):
    pass


async def test_a_render_through_the_process_is_accounted_for(folders):
    async with renderer(folders["sd"]) as one:
        assert one.resident == (MODEL,)
        assert await one.load(folders["sd"], MODEL) == ()
        assert re.fullmatch(
            r"nearlight \d[^;]*; python 3[^;]*; torch \d[^;]*; diffusers \d[^;]*; transformers \d[^;]*; .+",
            one.environment,
        )
        assert one.memory_bytes() > 100 << 20
        steps, started = [], []
        rendered = await one.render(
            b"1" * 16,
            MODEL,
            statement(steps=20).to_bytes(),
            steps.append,
            on_started=lambda: started.append(len(steps)),
        )
        assert started == [0]
        assert [(step.step, step.steps) for step in steps] == [(number, 20) for number in range(1, 21)]
        assert steps[0].preview[:2] == (8, 12)
        assert rendered.file == draw(load(folders["sd"]), statement(steps=20))[0].file
        first, last = rendered.spans[0], rendered.spans[-1]
        assert sum(us for _, _, us in rendered.spans) >= 0.98 * (last[1] + last[2] - first[1])


async def test_renders_and_failures_do_not_disturb_each_other(folders):
    async with renderer(folders["sd"]) as one, trio.open_nursery() as nursery:
        files = {}

        async def render(number):
            asked = statement(seed=number).to_bytes()
            files[number] = (await one.render(bytes([number]) * 16, MODEL, asked, ignore)).file

        async def fail():
            started = []
            with pytest.raises(RenderFailed, match="tokens long"):
                await one.render(
                    b"f" * 16,
                    MODEL,
                    statement(prompt="g" * 99).to_bytes(),
                    ignore,
                    on_started=lambda: started.append(True),
                )
            assert not started
            with pytest.raises(RenderFailed, match="not loaded"):
                await one.render(b"g" * 16, b"n" * 32, statement().to_bytes(), ignore)
            with pytest.raises(RenderFailed, match="Not a statement"):
                await one.render(b"h" * 16, MODEL, b"\xc1", ignore)

        for number in range(3):
            nursery.start_soon(render, number)
        nursery.start_soon(fail)
    assert len(set(files.values())) == 3


async def test_a_cancel_is_obeyed_within_a_step_and_the_renderer_lives_on(folders):
    async with renderer(folders["sd"]) as one:
        pid, task = one.pid, b"1" * 16
        with pytest.raises(RenderCancelled) as caught:
            await one.render(
                task,
                MODEL,
                statement(steps=900).to_bytes(),
                lambda step: one.cancel(task) if step.step == 2 else None,
            )
        assert 2 <= caught.value.steps_done < 900
        with trio.move_on_after(0.2):  # the caller goes away: the render goes too
            await one.render(b"2" * 16, MODEL, statement(steps=900).to_bytes(), ignore)
        assert (await one.render(b"3" * 16, MODEL, statement().to_bytes(), ignore)).steps_done == 3
        assert (one.pid, one.restarts) == (pid, 0)


async def test_a_waiting_task_is_cancelled_at_once(folders):
    async with renderer(folders["sd"]) as one, trio.open_nursery() as nursery:
        first, second = b"1" * 16, b"2" * 16
        running, ended = trio.Event(), {}

        async def render(task, on_step):
            with pytest.raises(RenderCancelled) as caught:
                await one.render(task, MODEL, statement(steps=900).to_bytes(), on_step)
            ended[task] = caught.value.steps_done
            one.cancel(first)  # the second one's end is the first one's cancel

        nursery.start_soon(render, first, lambda step: running.set())
        await running.wait()
        nursery.start_soon(render, second, ignore)
        await trio.testing.wait_all_tasks_blocked()
        one.cancel(second)
    assert list(ended) == [second, first]
    assert ended[second] == 0


async def test_a_cold_start_says_where_its_time_went_and_a_retired_renderer_starts_again(folders):
    one = Renderer("cpu")
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        for _ in range(2):
            began_us = now_us()
            starting, loading = await one.load(folders["sd"], MODEL)
            assert (starting[0], loading[0]) == ("start_renderer", "load_weights")
            assert starting[1] + starting[2] == loading[1]
            assert began_us <= starting[1] < loading[1] + loading[2] <= now_us()
            assert starting[2] > 300_000  # a Python that imports torch
            await one.retire("it is enough")
            assert (one.pid, one.resident, one.memory_bytes()) == (None, (), None)
        assert one.restarts == 1
        nursery.cancel_scope.cancel()


async def test_two_models_that_do_not_both_fit_make_way_for_each_other(folders):
    models = {model.id: model for model in (scan_folder(folders["sd"]), scan_folder(folders["sdxl"]))}
    first, second = models
    one, speeds, journal, key = Renderer("cpu"), SpeedBook(), [], bytes(range(32))
    peer = peer_id_of(public_key_of(key))

    async def keep(task, receipt):
        await trio.lowlevel.checkpoint()

    def note(event, **fields):
        journal.append((event, fields))

    loaded = trio.Event()
    residents = Residents(
        renderer=one,
        models=models,
        speeds=speeds,
        own_peer=peer,
        on_capabilities=loaded.set,
        journal=note,
        listed=(first,),
        ahead=True,
        device_limit_bytes=max(model.bytes for model in models.values()) + (1 << 20),
    )
    work = Work(
        private_key=key,
        network="test",
        own_peer=peer,
        renderer=one,
        residents=residents,
        models=models,
        adapters={},
        speeds=speeds,
        on_capabilities=lambda **_: None,
        on_receipt=keep,
        journal=note,
        on_work=lambda: None,
    )

    async def drawn(model, number):
        asked = statement(model=model, sampler=SAMPLER[models[model].family])
        offer = Offer(asked, public_key_of(key), bytes(16), bytes([number] * 16), 1, None)
        task = work.offer(peer, offer, now_us())
        while not task.over:
            await task.changed.wait()
        assert task.rendered is not None
        return task

    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(work.run)
        with trio.fail_after(60):
            await loaded.wait()  # it is listed
            assert one.resident == (first,)
            pid, told = one.pid, []
            for number, model in enumerate((first, second, second, first)):
                task = await drawn(model, number)
                told.append(task.load_us > 0)
                assert one.resident == work.live_state(peer).resident == (model,)
        assert told == [False, True, False, True]
        evicted = [fields["model"] for event, fields in journal if event == "evicted"]
        assert evicted == [first.hex(), second.hex()]
        assert one.pid == pid
        nursery.cancel_scope.cancel()


async def test_a_killed_renderer_says_how_it_died_and_a_new_one_draws(folders):
    async with renderer(folders["sd"]) as one:
        pid = one.pid

        def kill(step):
            if step.step == 2:
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(RendererDied, match="killed by SIGKILL"):
            await one.render(b"1" * 16, MODEL, statement(steps=900).to_bytes(), kill)
        assert one.resident == ()
        rendered = await one.render(b"1" * 16, MODEL, statement().to_bytes(), ignore)  # loads again
        assert rendered.steps_done == 3
        assert one.pid != pid
        assert one.restarts == 1


async def test_a_frozen_renderer_is_killed_when_it_does_not_obey_a_cancel(folders):
    async with renderer(folders["sd"]) as one:
        pid, task = one.pid, b"1" * 16

        def freeze(step):
            if step.step == 2:
                os.kill(pid, signal.SIGSTOP)
                one.cancel(task)

        with trio.fail_after(10), pytest.raises(RenderCancelled) as caught:
            await one.render(task, MODEL, statement(steps=900).to_bytes(), freeze)
        assert caught.value.steps_done == 2
        assert one.pid is None


async def test_a_folder_that_cannot_be_loaded_is_a_sentence_and_no_crash(folders, tmp_path):
    async with renderer(folders["sd"]) as one:
        with pytest.raises(RenderFailed, match=r"cannot be loaded: .*model_index.json cannot be read"):
            await one.load(tmp_path, b"n" * 32)
        assert one.restarts == 0


def test_an_orphan_is_gone_within_a_second_and_has_printed_no_prompt(folders):
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "peer.renderer", "--fd", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
        theirs.close()
        ours.settimeout(60)
        frames = FrameReader(at_most_bytes=1 << 20)

        def until(kind):
            while True:
                data = ours.recv(1 << 16)
                assert data, "it ended"
                for message in frames.feed_untrusted(data):
                    if message[0] == kind:
                        return

        until("ready")
        body = {"folder": str(folders["sd"]), "model": MODEL, "device": "cpu", "variant": ""}
        ours.sendall(pack(["load", body]))
        until("loaded")
        asked = statement(prompt=CANARY, steps=900).to_bytes()
        for task, what in ((b"0" * 16, statement(prompt=CANARY * 9).to_bytes()), (b"1" * 16, asked)):
            body = {"task": task, "model": MODEL, "statement": what, "adapters": [], "preview": True}
            ours.sendall(pack(["render", body]))
        until("failed")
        until("step")
        ours.shutdown(socket.SHUT_RDWR)
        process.wait(timeout=1)
        assert CANARY.encode() not in process.stderr.read()


def test_what_the_renderer_sends_is_not_trusted_blindly():
    from peer.renderer.client import _Child

    one = Renderer("cpu")
    with pytest.raises(RemoteProtocolError):
        one._on_message(_Child(None, None), ["done", {"task": b"x" * 16}])
