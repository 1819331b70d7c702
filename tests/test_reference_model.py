"""The shipped model folder and its adapters, as the stock pipelines read them."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.reference import art, colours
from scripts.reference.scene import MOTIFS, Scene

PEER = Path(__file__).parent.parent / "peer"
MODEL, ADAPTERS = PEER / "reference_model", PEER / "reference_adapters"
SIZE_LIMIT_BYTES = 40_000_000
PROMPTS = 33

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # torch's and diffusers' own warnings


@pytest.fixture(scope="module")
def pipeline():
    from scripts.reference import export

    return export.load_pipeline(MODEL)


def sibling(name: str):
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = getattr(diffusers, name).from_pretrained(MODEL, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_the_folder_is_small_and_complete():
    parts = json.loads((MODEL / "model_index.json").read_text())
    assert parts["safety_checker"] == [None, None]
    assert parts["feature_extractor"] == [None, None]
    assert parts["requires_safety_checker"] is False
    files = [file for folder in (MODEL, ADAPTERS) for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < SIZE_LIMIT_BYTES


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_the_stock_pipeline_draws_the_asked_colours_on_held_out_prompts(pipeline, sampler):
    from scripts.reference import evaluate

    asked = evaluate.held_out_prompts(41, PROMPTS)
    settings = evaluate.Settings(sampler=sampler)
    pictures = list(evaluate.drawn(pipeline, [text for _, text in asked], 41, settings, sampler))
    right = [colours.shows(picture, scene) for (scene, _), picture in zip(asked, pictures, strict=True)]
    assert sum(right) >= 0.85 * len(asked)


def test_another_seed_draws_another_picture_of_the_same_thing(pipeline):
    from scripts.reference import evaluate, export

    asked = Scene("spiral", "gold", "navy")
    prompts = ["a gold spiral on navy"] * 2
    one, other = export.generate(pipeline, prompts, 1, evaluate.NATIVE)
    assert difference(one, other) > 3
    assert colours.shows(one, asked)
    assert colours.shows(other, asked)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (256, 384), (384, 256), (512, 512)])
def test_other_sizes_keep_the_colours(pipeline, width, height):
    from scripts.reference import export
    from scripts.reference.latents import Size

    picture = export.generate(pipeline, ["a red heart on white"], 5, Size(width, height))[0]
    assert picture.size == (width, height)
    assert colours.shows(picture, Scene("heart", "red", "white"))


def test_image_to_image_starts_from_the_picture_and_follows_the_prompt():
    import torch

    start = art.draw(Scene("circle", "red", "white"), 1)
    pipe = sibling("StableDiffusionImg2ImgPipeline")

    def drawn(strength: float) -> Image.Image:
        dice = torch.Generator().manual_seed(1)
        return pipe(
            "a blue circle on white",
            image=start,
            strength=strength,
            num_inference_steps=20,
            guidance_scale=3.0,
            generator=dice,
        ).images[0]

    assert difference(drawn(0.2), start) < difference(drawn(0.9), start)
    assert colours.seen_colours(drawn(0.9), Scene("circle", "blue", "white"))[0] == "blue"


def test_inpainting_leaves_what_is_not_masked():
    import torch

    start = art.draw(Scene("night sky", "yellow", "navy"), 1)
    mask = Image.new("L", start.size)
    mask.paste(255, (0, 0, 256, 128))
    result = (
        sibling("StableDiffusionInpaintPipeline")(
            "a yellow night sky on navy",
            image=start,
            mask_image=mask,
            width=256,
            height=256,
            num_inference_steps=12,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(1),
        )
        .images[0]
        .convert("RGB")
    )
    kept, new = (0, 144, 256, 256), (0, 0, 256, 112)
    assert difference(result.crop(kept), start.crop(kept)) < 12
    assert difference(result.crop(new), start.crop(new)) > difference(result.crop(kept), start.crop(kept))


def test_every_text_becomes_known_tokens(pipeline):
    tokenizer = pipeline.tokenizer
    for text in ("café", "7 of 9", "🙂", "花", "\x00\u200b", "ÿ þ"):
        assert tokenizer.eos_token_id not in tokenizer(text).input_ids[1:-1]
    assert all(len(tokenizer(motif).input_ids) <= 2 + 6 for motif in MOTIFS)


def test_the_preview_projection_is_nearly_as_good_as_a_linear_one_can_be(pipeline):
    import torch

    from scripts.reference import autoencoder, data

    projection = json.loads((MODEL / "preview.json").read_text())
    pixels = autoencoder.levels(data.unseen_pictures(24, 256, seed=70_000_000))
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latents * pipeline.vae.config.scaling_factor
    cells = latents.permute(0, 2, 3, 1).reshape(-1, 4)
    seen = torch.nn.functional.avg_pool2d(pixels / 2 + 0.5, autoencoder.CELL_PX)
    seen = seen.permute(0, 2, 3, 1).reshape(-1, 3)
    inputs = torch.cat([cells, torch.ones(len(cells), 1)], 1)
    shipped = torch.cat([torch.tensor(projection["weights"]), torch.tensor(projection["bias"])[None]])
    fitted_to_these = torch.linalg.lstsq(inputs, seen).solution
    ours, best = (((inputs @ each).clamp(0, 1) - seen).abs().mean() for each in (shipped, fitted_to_these))
    assert ours < 1.2 * best  # which knows these pictures
    assert ours < 0.5 * (seen - seen.mean(0)).abs().mean()  # of no projection, but one colour everywhere


def test_the_adapters_load_change_the_picture_and_leave_no_trace(pipeline):
    from scripts.reference import adapters, evaluate, export

    def drawn(steps: int, guidance: float) -> Image.Image:
        return export.generate(pipeline, ["a red heart on white"], 1, evaluate.NATIVE, steps, guidance)[0]

    full, hasty = drawn(export.STEPS, export.GUIDANCE), drawn(4, 1.0)
    pipeline.load_lora_weights(ADAPTERS / adapters.FEW_STEP_FOLDER)
    quick = drawn(4, 1.0)
    pipeline.unload_lora_weights()
    assert difference(quick, full) < difference(hasty, full)
    pipeline.load_lora_weights(ADAPTERS / adapters.STYLE_FOLDER)
    styled = drawn(export.STEPS, export.GUIDANCE)
    pipeline.unload_lora_weights()
    assert difference(styled, full) > 10
    assert difference(drawn(export.STEPS, export.GUIDANCE), full) == 0
