"""The reference model: what its training draws and says, and what the shipped folder then draws."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from scripts.reference import art, captions, colours

MODEL = Path(__file__).parent.parent / "peer" / "reference_model"
SIZE_LIMIT_BYTES = 40 << 20


def scenes(seed: int, per_motif: int = 3) -> list[art.Scene]:
    dice = random.Random(seed)
    return [
        art.Scene(motif, *dice.sample(list(art.PALETTE), 2)) for motif in art.MOTIFS for _ in range(per_motif)
    ]


def test_the_same_seed_draws_the_same_pixels_and_another_seed_others():
    for scene in scenes(1, per_motif=1):
        first = art.draw(scene, 5)
        assert first.size == (art.SIZE_PX, art.SIZE_PX)
        assert first.tobytes() == art.draw(scene, 5).tobytes()
        assert first.tobytes() != art.draw(scene, 6).tobytes()


def test_the_judge_sees_the_colours_that_were_drawn():
    drawn = scenes(2)
    right = [colours.shows(art.draw(scene, seed), scene) for seed, scene in enumerate(drawn)]
    assert np.mean(right) > 0.95


def test_the_judge_is_not_fooled_by_other_colours():
    for seed, scene in enumerate(scenes(3, per_motif=1)):
        others = [name for name in art.PALETTE if name not in (scene.foreground, scene.background)]
        asked = art.Scene(scene.motif, others[seed % len(others)], scene.background)
        assert not colours.shows(art.draw(scene, seed), asked)


def test_a_whole_caption_names_the_motif_and_both_colours():
    dice = random.Random(4)
    for scene in scenes(4, per_motif=8):
        text = captions.phrase(scene, dice.choice(captions.WHOLE), dice)
        assert any(name in text for name in captions.MOTIF_NAMES[scene.motif])
        for colour in (scene.foreground, scene.background):
            assert any(name in text for name in captions.ALSO_CALLED.get(colour, (colour,)))


def test_captions_take_the_right_article():
    assert captions.article("orange star") == "an orange star"
    assert captions.article("gold star") == "a gold star"
    dice = random.Random(5)
    rings = art.Scene("concentric circles", "red", "white")
    assert captions.phrase(rings, "{a_f_m} on {b}", dice).startswith("red ")


def test_every_motif_has_a_name_and_is_held_out_at_least_once():
    assert set(captions.MOTIF_NAMES) == set(art.MOTIFS)
    assert {scene.motif for scene in art.HELD_OUT_SCENES} == set(art.MOTIFS)


@pytest.mark.slow
def test_the_shipped_folder_is_small_and_complete():
    parts = json.loads((MODEL / "model_index.json").read_text())
    assert parts["safety_checker"] == [None, None]
    assert parts["feature_extractor"] == [None, None]
    assert parts["requires_safety_checker"] is False
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) < SIZE_LIMIT_BYTES


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's and diffusers' own
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_the_stock_pipeline_draws_the_asked_colours_on_held_out_prompts(sampler):
    from scripts.reference import evaluate, export

    asked = evaluate.held_out_prompts(15)
    pipeline = export.load_pipeline(MODEL, sampler)
    pictures = export.generate(pipeline, [text for _, text in asked], seed=90_000, steps=10, guidance=3.5)
    right = [colours.shows(picture, scene) for (scene, _), picture in zip(asked, pictures, strict=True)]
    assert sum(right) >= 0.8 * len(asked)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_text_becomes_known_tokens():
    from scripts.reference import tokens

    tokenizer = tokens.load(MODEL / "tokenizer")
    for text in ("café", "7 of 9", "🙂", "花", "\x00\u200b", "ÿ þ"):
        assert tokenizer.eos_token_id not in tokenizer(text).input_ids[1:-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_preview_projection_resembles_the_decoded_picture():
    import torch

    from scripts.reference import data, export

    vae = export.load_pipeline(MODEL).vae
    projection = json.loads((MODEL / "preview.json").read_text())
    pixels = data.pictures([(scene, 70_000 + k) for k, scene in enumerate(scenes(6, per_motif=1))])
    with torch.no_grad():
        latents = vae.encode(pixels / 127.5 - 1).latents * vae.config.scaling_factor
    rgb = latents.permute(0, 2, 3, 1) @ torch.tensor(projection["weights"]) + torch.tensor(projection["bias"])
    small = torch.nn.functional.avg_pool2d(pixels / 255, export.CELL_PX).permute(0, 2, 3, 1)
    assert (rgb.clamp(0, 1) - small).abs().mean() < 0.12
