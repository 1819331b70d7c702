"""Folders of adapters: what is read of them, what is refused, and which models they fit."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from peer.renderer.lora import Layer, NotALora, read_untrusted
from peer.store import adapters as module
from peer.store.adapters import (
    DESCRIPTION,
    WEIGHTS,
    AdapterError,
    find_adapters,
    reference_adapter_folders,
    scan_adapter,
)
from peer.store.digests import DigestCache
from peer.store.models import reference_model_folder, scan_folder
from protocol.wire.advert import FewStep
from protocol.wire.manifest import ADAPTER_FAMILY, Manifest

LINEAR = {"unet.mid.to_q.lora_A.weight": [2, 8], "unet.mid.to_q.lora_B.weight": [6, 2]}
CONV = {"unet.mid.conv.lora_A.weight": [2, 4, 3, 3], "unet.mid.conv.lora_B.weight": [8, 2, 1, 1]}
QUICK = {"name": "quick", "few_step": {"steps": 4, "guidance": 1.5, "sampler": "ddim"}}


def safetensors(shapes, dtype="F32", metadata=None, fill=b"\0"):
    header, end = {"__metadata__": {"format": "pt", **(metadata or {})}}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + fill * end


def build(folder, shapes=LINEAR, description=None, name=WEIGHTS, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(safetensors(shapes, **more))
    if description is not None:
        data = description if isinstance(description, bytes) else json.dumps(description).encode()
        (folder / DESCRIPTION).write_bytes(data)
    return folder


@dataclass(frozen=True)
class Model:
    """As much of a LocalModel as adapters look at."""

    id: bytes
    name: str
    shapes: dict
    part: str = "unet"

    def denoiser_weights(self):
        return self.part, self.shapes


FITTING = Model(b"f" * 32, "fitting", {"mid.to_q.weight": (6, 8), "mid.conv.weight": (8, 4, 3, 3)})


def test_a_folder_is_its_weights_and_its_description(tmp_path):
    adapter = scan_adapter(build(tmp_path / "any", LINEAR | CONV, QUICK))
    assert (adapter.name, adapter.few_step) == ("quick", FewStep(4, 1_500_000, "ddim"))
    assert adapter.lora.layers == {"mid.to_q": Layer((6, 8), 2), "mid.conv": Layer((8, 4, 3, 3), 2)}
    manifest = Manifest.from_untrusted(adapter.manifest.to_bytes())
    assert (manifest.family, manifest.id) == (ADAPTER_FAMILY, adapter.id)
    assert [file.path for file in manifest.files] == [DESCRIPTION, WEIGHTS]


def test_the_same_weights_have_the_same_id_whatever_they_are_called(tmp_path):
    one = scan_adapter(build(tmp_path / "one"))
    other = scan_adapter(build(tmp_path / "other", name="sketch-v2.safetensors"))
    assert one.id == other.id
    assert (one.name, other.name) == ("one", "other")
    assert scan_adapter(build(tmp_path / "else", fill=b"\1")).id != one.id


def test_a_description_is_part_of_the_id_and_how_it_is_written_is_not(tmp_path):
    plain = scan_adapter(build(tmp_path / "plain")).id
    one = scan_adapter(build(tmp_path / "one", description=QUICK)).id
    other = scan_adapter(build(tmp_path / "two", description=json.dumps(QUICK, indent=4).encode() + b"\n")).id
    third = scan_adapter(build(tmp_path / "three", description={"name": "quick"})).id
    assert one == other
    assert len({plain, one, third}) == 3


@pytest.mark.parametrize(
    "description",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"name": "a", "name": "b"}',
        b" " * 5000,
        {},
        {"name": 7},
        {"name": ""},
        {"name": "a=1"},
        {"name": "../up"},
        {"name": "x" * 65},
        {"name": "a", "trigger": "b"},
        {"name": "a", "few_step": None},
        {"name": "a", "few_step": {"steps": 4, "guidance": 1}},
        {"name": "a", "few_step": {"steps": True, "guidance": 1, "sampler": "ddim"}},
        {"name": "a", "few_step": {"steps": 0, "guidance": 1, "sampler": "ddim"}},
        {"name": "a", "few_step": {"steps": 4.5, "guidance": 1, "sampler": "ddim"}},
        {"name": "a", "few_step": {"steps": 4, "guidance": 101, "sampler": "ddim"}},
        {"name": "a", "few_step": {"steps": 4, "guidance": 1.23456789, "sampler": "ddim"}},
        {"name": "a", "few_step": {"steps": 4, "guidance": -1, "sampler": "ddim"}},
        {"name": "a", "few_step": {"steps": 4, "guidance": 1, "sampler": "lcm"}},
        {"name": "a", "few_step": {"steps": 4, "guidance": 1, "sampler": "ddim", "more": 1}},
    ],
)
def test_a_description_that_says_anything_else_is_refused(tmp_path, description):
    with pytest.raises(AdapterError, match=r"is no adapter .*adapter\.json"):
        scan_adapter(build(tmp_path / "x", description=description))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, "changes nothing"),
        (
            {"text_encoder.q.lora_A.weight": [2, 8], "text_encoder.q.lora_B.weight": [6, 2]},
            "only the denoiser",
        ),
        (LINEAR | {"transformer.q.lora_A.weight": [2, 8], "transformer.q.lora_B.weight": [6, 2]}, "only the"),
        ({"lora_unet_mid.lora_down.weight": [2, 8]}, "only the denoiser"),
        (LINEAR | {"unet.mid.to_q.alpha": []}, "does not consist of"),
        (
            {"unet.mid.to_q.lora_A.weight": [2, 8], "unet.mid.to_k.lora_B.weight": [6, 2]},
            "without its lora_B",
        ),
        ({"unet.q.lora_A.weight": [2, 8], "unet.q.lora_B.weight": [6, 3]}, "no low-rank change"),
        ({"unet.q.lora_A.weight": [2, 8, 1], "unet.q.lora_B.weight": [6, 2, 1]}, "no low-rank change"),
        ({"unet.q.lora_A.weight": [2, 4, 3, 3], "unet.q.lora_B.weight": [6, 2, 3, 3]}, "no low-rank change"),
        ({"unet.q.lora_A.weight": [0, 8], "unet.q.lora_B.weight": [6, 0]}, "no low-rank change"),
    ],
)
def test_weights_that_are_none_of_a_lora_are_refused(tmp_path, shapes, words):
    with pytest.raises(AdapterError, match=words):
        scan_adapter(build(tmp_path / "x", shapes))


@pytest.mark.parametrize(
    "header",
    [
        {"unet.q.lora_A.weight": 7},
        {"unet.q.lora_A.weight": {"dtype": "F32", "shape": [2, -1]}},
        {"unet.q.lora_A.weight": {"dtype": "F32", "shape": [2, True]}},
        {"unet.q.lora_A.weight": {"dtype": "I64", "shape": [2, 8]}},
        {"unet." + "q" * 300: {"dtype": "F32", "shape": [2, 8]}},
        {"unet.q\n.lora_A.weight": {"dtype": "F32", "shape": [2, 8]}},
    ],
)
def test_headers_that_lie_are_refused(header):
    with pytest.raises(NotALora):
        read_untrusted(header)


@pytest.mark.parametrize(
    ("said", "alpha", "words"),
    [
        ({"unet.lora_alpha": 8, "unet.r": 2, "unet.alpha_pattern": {}, "unet.use_dora": False}, 8.0, None),
        ({"unet.r": 2}, None, None),
        ({"unet.lora_alpha": 8, "unet.use_dora": True}, None, "trained with use_dora"),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"q": 1}}, None, "trained with alpha_pattern"),
        ({"unet.lora_alpha": "8"}, None, "no number"),
        ({"unet.lora_alpha": 10**9}, None, "no number"),
        ([], None, "cannot be read"),
    ],
)
def test_the_scale_is_what_the_metadata_says(tmp_path, said, alpha, words):
    folder = build(tmp_path / "x", metadata={"lora_adapter_metadata": json.dumps(said)})
    if words:
        with pytest.raises(AdapterError, match=words):
            scan_adapter(folder)
    else:
        lora = scan_adapter(folder).lora
        assert lora.alpha == alpha
        assert lora.scale("mid.to_q") == (1 if alpha is None else alpha / 2)


def test_folders_that_hold_no_weights_or_too_many_or_too_large_ones(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match="must hold one safetensors file, and holds 0"):
        scan_adapter(tmp_path / "empty")
    build(build(tmp_path / "two"), name="more.safetensors")
    with pytest.raises(AdapterError, match="holds 2"):
        scan_adapter(tmp_path / "two")
    with pytest.raises(AdapterError, match="not a folder"):
        scan_adapter(tmp_path / "nowhere")
    (build(tmp_path / "cut") / WEIGHTS).write_bytes(safetensors(LINEAR)[:-1])
    with pytest.raises(AdapterError, match="interrupted download"):
        scan_adapter(tmp_path / "cut")
    monkeypatch.setattr(module, "MAX_WEIGHTS_BYTES", 100)
    with pytest.raises(AdapterError, match="as no LoRA should be"):
        scan_adapter(build(tmp_path / "large"))


def test_an_adapter_goes_with_every_model_that_has_its_weights_in_their_shapes(tmp_path):
    folder = build(tmp_path / "sketch", LINEAR | CONV)
    twin = Model(b"t" * 32, "twin", FITTING.shapes | {"more.weight": (1,)})
    other = Model(b"o" * 32, "other", {"mid.to_q.weight": (6, 9), "mid.conv.weight": (8, 4, 3, 3)})
    found = find_adapters([FITTING, other, twin], [folder])
    adapter = scan_adapter(folder)
    assert {model: list(adapters) for model, adapters in found.items()} == {
        FITTING.id: [adapter.id],
        twin.id: [adapter.id],
    }


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            Model(b"o" * 32, "other", {"mid.to_q.weight": (6, 9)}),
            "other: mid.to_q is 6x8, and 6x9 in that model.",
        ),
        (Model(b"o" * 32, "other", {}), "other: that model has no mid.to_q."),
        (
            Model(b"o" * 32, "other", {}, "transformer"),
            "other: it changes a unet, and that model has a transf",
        ),
    ],
)
def test_one_that_was_named_and_fits_nothing_is_a_sentence(tmp_path, model, words):
    with pytest.raises(AdapterError, match="fits none of this peer's models") as told:
        find_adapters([model], [build(tmp_path / "sketch")])
    assert words in str(told.value)


def test_no_more_are_offered_than_an_advert_holds(tmp_path):
    folders = [build(tmp_path / str(n), fill=bytes([n])) for n in range(9)]
    with pytest.raises(AdapterError, match="9 adapters fit the model fitting; at most 8"):
        find_adapters([FITTING], folders)
    models = [Model(bytes([n]) * 32, f"model {n}", FITTING.shapes) for n in range(3)]
    assert sum(map(len, find_adapters(models[:2], folders[:8]).values())) == 16
    with pytest.raises(AdapterError, match="24 pairs"):
        find_adapters(models, folders[:8])


def test_weights_are_hashed_once(tmp_path):
    cache = DigestCache(tmp_path / "home" / "models.json")
    folder = build(tmp_path / "sketch")
    first = scan_adapter(folder, cache)
    again = DigestCache(tmp_path / "home" / "models.json")
    assert scan_adapter(folder, again).id == first.id
    assert again.statistics()["hits"] == 1


def test_those_that_ship_fit_the_model_that_ships_and_say_how_they_are_used(tmp_path):
    model = scan_folder(reference_model_folder())
    shipped = {each.name: each for each in find_adapters([model], [])[model.id].values()}
    assert shipped.keys() == {"few-step", "stained-glass"}
    assert shipped["few-step"].few_step == FewStep(4, 1_000_000, "ddim")
    assert shipped["stained-glass"].few_step is None
    assert len(reference_adapter_folders()) == 2
    copy = shutil.copytree(shipped["few-step"].folder, tmp_path / "copy")
    assert scan_adapter(Path(copy)).id == shipped["few-step"].id
    assert find_adapters([FITTING], []) == {}
