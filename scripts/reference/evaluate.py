"""How good the exported folder is: asked colours on held-out prompts, and the autoencoder's fidelity."""

import random
from pathlib import Path

from . import art, autoencoder, captions, colours, data, export

PROMPTS = 50
SEED = 700_000
UNSEEN_GRAMMAR = ("{a_f_m} in front of {b}", "{b} behind {a_f_m}", "{m} of {f} colour on plain {b}")
FIDELITY_PICTURES = 256
UNSEEN_DRAWING_SEED = 10_000_000


def held_out_prompts(count: int = PROMPTS) -> list[tuple[art.Scene, str]]:
    """Scenes that training never saw with a prompt each; every third is worded as no training caption was."""
    dice = random.Random("prompts")
    asked = []
    for number, scene in enumerate(art.HELD_OUT_SCENES[:count]):
        grammar = dice.choice(UNSEEN_GRAMMAR if number % 3 == 2 else captions.WHOLE)
        asked.append((scene, captions.phrase(scene, grammar, dice)))
    return asked


def judge(folder: Path, sampler: str, steps: int, guidance: float, sheet: Path | None) -> dict[str, object]:
    """`colour`: the share of prompts whose two colours came out right; `psnr_db`: the autoencoder's."""
    pipeline = export.load_pipeline(folder, sampler)
    asked = held_out_prompts()
    pictures = export.generate(pipeline, [text for _, text in asked], SEED, steps, guidance)
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        export.contact_sheet(pictures, 10).save(sheet)
    misses = [
        {"prompt": text, "seen": " on ".join(colours.seen_colours(picture))}
        for (scene, text), picture in zip(asked, pictures, strict=True)
        if not colours.shows(picture, scene)
    ]
    dice = random.Random(UNSEEN_DRAWING_SEED)
    drawn = [(art.random_scene(dice), UNSEEN_DRAWING_SEED + k) for k in range(FIDELITY_PICTURES)]
    return {
        "colour": round(1 - len(misses) / len(asked), 3),
        "psnr_db": round(autoencoder.psnr_db(pipeline.vae, data.pictures(drawn)), 2),
        "prompts": len(asked),
        "sampler": sampler,
        "steps": steps,
        "guidance": guidance,
        "misses": misses,
    }
