"""The reference model's world: what its training draws and says, and the judge that looks at pictures."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from scripts.reference import art, captions, colours, palette, scene
from scripts.reference.scene import Scene

SIDE_PX = 64


def scenes(seed: int, per_motif: int = 1) -> list[Scene]:
    dice = random.Random(seed)
    return [scene.random_scene(dice, motif=motif) for motif in scene.MOTIFS for _ in range(per_motif)]


def pixels(asked: Scene, seed: int, width_px: int = SIDE_PX, height_px: int = SIDE_PX) -> np.ndarray:
    return np.asarray(art.draw(asked, seed, width_px, height_px))


def test_the_world_is_as_large_as_the_card_says():
    assert len(scene.MOTIFS) == len(set(scene.MOTIFS)) >= 24
    assert len(palette.PALETTE) == 16


def test_the_same_seed_draws_the_same_pixels_and_another_seed_others():
    for asked in scenes(1):
        first = pixels(asked, 5)
        assert first.shape == (SIDE_PX, SIDE_PX, 3)
        assert (first == pixels(asked, 5)).all()
        assert (first != pixels(asked, 6)).any()


def test_every_motif_is_drawn_in_every_style_and_two_motifs_never_look_alike():
    for style in (*scene.STYLES, scene.ADAPTER_STYLE):
        drawn = [pixels(Scene(motif, "gold", "navy", style), 1, 48, 48) for motif in scene.MOTIFS]
        assert all(each.std() > 5 for each in drawn)
        assert len({each.tobytes() for each in drawn}) == len(scene.MOTIFS)


def test_styles_visibly_differ():
    for motif in scene.MOTIFS:
        drawn = [pixels(Scene(motif, "red", "white", style), 1).astype(float) for style in art.PAINTERS]
        for k, one in enumerate(drawn):
            for other in drawn[k + 1 :]:
                assert np.abs(one - other).mean() > 3, motif


def test_sizes_numbers_and_second_colours_change_a_picture():
    plain = Scene("star", "red", "white")
    inked = [
        (pixels(each, 2)[..., 1] < 128).sum()
        for each in (replace(plain, size="small"), plain, replace(plain, size="large"))
    ]
    assert inked[0] < inked[1] < inked[2]
    for changed in (replace(plain, count=3), replace(plain, accent="blue"), replace(plain, fade="blue")):
        assert (pixels(changed, 2) != pixels(plain, 2)).any()


def test_a_scene_looks_alike_at_every_size():
    for asked in scenes(3)[::3]:
        asked = replace(asked, style="flat")
        large = art.draw(asked, 9, 128, 128).resize((64, 64))
        assert np.abs(np.asarray(large, float) - pixels(asked, 9)).mean() < 12, asked


@pytest.mark.parametrize(("width_px", "height_px"), [(128, 96), (64, 128)])
def test_pictures_need_not_be_square(width_px, height_px):
    for asked in scenes(4)[::3]:
        assert pixels(asked, 1, width_px, height_px).shape == (height_px, width_px, 3)


def test_the_colours_stand_apart():
    assert palette.least_distance(palette.colours("flat")) >= palette.LEAST_DISTANCE
    assert palette.least_distance(palette.colours("pastel")) >= 0.7 * palette.LEAST_DISTANCE


def test_oklab_goes_there_and_back():
    levels = np.random.default_rng(1).integers(0, 256, (50, 3))
    assert np.abs(palette.srgb(palette.oklab(levels)) - levels).max() < 0.1


def test_the_judge_sees_the_colours_that_were_drawn():
    asked = scenes(7, per_motif=5)
    right = [colours.shows(art.draw(each, seed, 128, 128), each) for seed, each in enumerate(asked)]
    assert np.mean(right) >= 0.99


def test_the_judge_is_not_fooled_by_other_colours():
    for seed, each in enumerate(scenes(8)):
        named = {each.foreground, each.background, each.accent, each.fade}
        others = [name for name in palette.PALETTE if name not in named]
        picture = art.draw(each, seed, SIDE_PX, SIDE_PX)
        assert not colours.shows(picture, replace(each, foreground=others[seed % len(others)]))
        assert not colours.shows(picture, replace(each, background=others[seed % len(others)], fade=None))


def test_training_never_sees_a_held_out_combination_and_the_evaluation_nothing_else():
    dice = random.Random(9)
    assert not any(scene.random_scene(dice).held_out for _ in range(500))
    kept = [scene.random_scene(dice, held_out=True, motif=motif) for motif in scene.MOTIFS]
    assert all(each.held_out for each in kept)


def test_scenes_hold_what_the_world_offers():
    dice = random.Random(10)
    many = [scene.random_scene(dice) for _ in range(4000)]
    assert {each.motif for each in many} == set(scene.MOTIFS)
    assert {each.style for each in many} == set(scene.STYLES)
    assert {each.count for each in many} == {1, *scene.COUNTS}
    assert {each.relation for each in many} == {None, *scene.RELATIONS}
    assert {each.size for each in many} == {None, *scene.SIZES}
    assert {each.foreground for each in many} == {each.background for each in many} == set(palette.PALETTE)
    assert all(each.foreground != each.background for each in many)


def test_a_whole_caption_names_everything_in_the_scene():
    dice = random.Random(11)

    def names(colour: str) -> tuple[str, ...]:
        return captions.ALSO_CALLED.get(colour, (colour,))

    for each in scenes(11, per_motif=12):
        text = captions.phrase(each, dice)
        assert any(name and name in text for pair in captions.NAMES[each.motif] for name in pair), text
        for colour in (each.foreground, each.background, each.accent, each.fade):
            assert colour is None or any(name in text for name in names(colour)), text
        if each.style != "flat":
            said = captions.STYLE_BEFORE[each.style] + captions.STYLE_AFTER[each.style]
            assert any(word in text for word in said), text
        if each.count > 1:
            assert any(word in text for word in captions.COUNTS[each.count]), text
        if each.size:
            assert any(word in text for word in captions.SIZES[each.size]), text
        if each.relation:
            assert any(word in text for word in captions.RELATIONS[each.relation]), text
            assert any(name and name in text for pair in captions.NAMES[each.other] for name in pair), text


def test_no_two_motifs_share_a_name():
    named = Counter(
        name
        for motif in captions.NAMES
        for name in {name for pair in captions.NAMES[motif] for name in pair if name}
    )
    assert set(captions.NAMES) == set(scene.MOTIFS)
    assert [name for name, count in named.items() if count > 1] == []


def test_captions_take_the_right_article_and_number():
    assert captions.article("orange star") == "an orange star"
    assert captions.article("gold star") == "a gold star"
    dice = random.Random(12)
    for _ in range(50):
        waves = captions.phrase(Scene("stripes", "red", "white"), dice, ("{s} on {b}",))
        assert not waves.startswith(("a red stripes", "a stripes"))
        two = captions.phrase(Scene("star", "red", "white", count=2), dice, ("{s} on {b}",))
        assert "stars" in two
        assert not two.startswith("a red")


def test_captions_vary_and_the_same_dice_say_the_same():
    asked = Scene("spiral", "gold", "navy")
    said = [captions.caption(asked, random.Random(seed)) for seed in range(200)]
    assert len(set(said)) > 120
    assert said == [captions.caption(asked, random.Random(seed)) for seed in range(200)]


def test_the_evaluation_has_wordings_that_training_has_not():
    assert not set(captions.UNSEEN_GROUND) & set(captions.WITH_GROUND)
