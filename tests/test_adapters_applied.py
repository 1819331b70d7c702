"""Adapters on the model that ships: exactly as stated, the same each time, and without a trace in what follows."""

import io
import shutil
import time
import warnings
from dataclasses import replace

import pytest
from PIL import Image

from peer.renderer.messages import RenderFailed
from peer.store.adapters import WEIGHTS, find_adapters, scan_adapter
from peer.store.models import reference_model_folder, scan_folder
from protocol.wire.statement import Statement

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

LOCAL = scan_folder(reference_model_folder())
SHIPPED = {each.name: each for each in find_adapters([LOCAL], [])[LOCAL.id].values()}
GLASS, QUICK = SHIPPED["stained-glass"], SHIPPED["few-step"]
PLAIN = Statement(
    model=LOCAL.id, prompt="a red butterfly on white", width=128, height=128, steps=4,
    guidance_millionths=2_000_000, sampler="ddim", seed=7, salt=bytes(16), precision="fp32",
)  # fmt: skip
STYLED = replace(PLAIN, adapters=((GLASS.id, 1_000_000),))


def files(*adapters):
    from peer.renderer.adapters import AdapterFile

    return {each.id: AdapterFile(each.weights, each.weights_root) for each in adapters or SHIPPED.values()}


@pytest.fixture(scope="module")
def model():
    import torch

    from peer.renderer import pipelines

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a renderer does
    yield pipelines.load(LOCAL.folder, "cpu")
    torch.set_num_threads(threads)


def draw(model, asked, given=None):
    """(picture, names of spans)"""
    from peer.renderer import render

    spans = []
    watcher = render.Watcher(lambda name, start, us: spans.append(name), lambda *step: None, lambda: False)
    return render.render(model, asked, watcher, files() if given is None else given), spans


def weights(model):
    return {name: tensor.clone() for name, tensor in model.pipe.unet.state_dict().items()}


def rgb(picture):
    return Image.open(io.BytesIO(picture.file)).convert("RGB")


def test_a_picture_is_the_same_whatever_was_drawn_before_it(model):
    import torch

    before, (plain, _) = weights(model), draw(model, PLAIN)
    both = replace(PLAIN, adapters=((GLASS.id, 500_000), (QUICK.id, 1_000_000)))
    first = {asked: draw(model, asked) for asked in (STYLED, both)}
    assert len({plain.pixels, *(picture.pixels for picture, _ in first.values())}) == 3
    assert all("load_adapter" in spans for _, spans in first.values())
    assert draw(model, PLAIN)[0] == plain
    again, spans = draw(model, both)
    assert again == first[both][0]
    assert "load_adapter" not in spans  # it was there
    assert draw(model, both)[0] == again
    assert draw(model, PLAIN)[0] == plain
    styled, spans = draw(model, STYLED)
    assert styled == first[STYLED][0]
    assert "load_adapter" in spans
    assert draw(model, replace(STYLED, adapters=((GLASS.id, 0),)))[0].pixels == plain.pixels
    assert draw(model, PLAIN)[0] == plain
    after = weights(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_fresh_process_draws_the_same(model):
    from peer.renderer import pipelines

    first = draw(model, STYLED)[0]
    assert draw(pipelines.load(LOCAL.folder, "cpu"), STYLED)[0] == first


@pytest.mark.parametrize("weight", [1.0, 0.4])
@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_it_is_applied_as_diffusers_applies_it(model, name, weight):
    import diffusers
    import numpy
    import torch

    from protocol.wire.noise import normals

    adapter = SHIPPED[name]
    asked = replace(PLAIN, adapters=((adapter.id, round(weight * 1_000_000)),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(LOCAL.folder, safety_checker=None)
        pipe.load_lora_weights(adapter.folder, adapter_name="it")
        pipe.set_adapters(["it"], [weight])
    numbers = numpy.frombuffer(bytearray(normals(7, 4 * 16 * 16)), "<f4")
    latents = torch.from_numpy(numbers).reshape(1, 4, 16, 16)
    stock = pipe(
        asked.prompt, width=128, height=128, num_inference_steps=4, guidance_scale=2.0, latents=latents
    ).images[0]
    ours = numpy.asarray(rgb(draw(model, asked)[0]), dtype=int)
    assert numpy.abs(ours - numpy.asarray(stock, dtype=int)).max() <= 2
    assert numpy.abs(ours - numpy.asarray(rgb(draw(model, PLAIN)[0]), dtype=int)).max() > 20


def test_the_alpha_of_a_file_counts():
    import torch

    from peer.renderer.adapters import Adapted

    class Read:
        def __init__(self, alpha):
            self.alpha = alpha

        def read(self):
            from peer.renderer.lora import Layer, Lora

            tensors = {"unet.q.lora_A.weight": torch.ones(2, 8), "unet.q.lora_B.weight": torch.ones(6, 2)}
            return Lora("unet", {"q": Layer((6, 8), 2)}, self.alpha), tensors

    denoiser = torch.nn.ModuleDict({"q": torch.nn.Linear(8, 6, dtype=torch.bfloat16)})
    own = denoiser["q"].weight.clone()
    adapted = Adapted(denoiser, "unet")
    for alpha, weight, added in ((None, 1_000_000, 2.0), (8.0, 1_000_000, 8.0), (8.0, 250_000, 2.0)):
        assert adapted.use(((b"a", weight), (b"b", 0)), {b"a": Read(alpha), b"b": Read(None)})
        assert torch.equal(denoiser["q"].weight, (own.float() + added).bfloat16())
        adapted.forget()
    assert torch.equal(denoiser["q"].weight, own)


def test_what_cannot_be_applied_leaves_the_model_as_it_was(model, tmp_path):
    plain = draw(model, PLAIN)[0]
    draw(model, STYLED)
    gone = replace(GLASS, weights=tmp_path / "gone")
    other = replace(GLASS, weights=QUICK.weights)
    for given, words in (
        ({}, "was not given the adapter"),
        (files(gone), "cannot be read"),
        (files(other), "changed since this peer started"),
    ):
        with pytest.raises(RenderFailed, match=words):
            draw(model, replace(STYLED, adapters=((GLASS.id, 600_000),)), given)
        assert draw(model, PLAIN)[0] == plain


def test_one_of_another_model_is_a_sentence(model, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(GLASS.weights)
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    tensors[name] = tensors[name][:, :1].contiguous()
    folder = tmp_path / "narrow"
    shutil.copytree(GLASS.folder, folder)
    save_file(tensors, folder / WEIGHTS)
    narrow = scan_adapter(folder)
    assert "in that model" in narrow.lora.why_not(*LOCAL.denoiser_weights())
    with pytest.raises(RenderFailed, match="does not fit") as failed:
        draw(model, replace(PLAIN, adapters=((narrow.id, 1_000_000),)), files(narrow))
    assert failed.value.code == "load_failed"


def test_four_steps_with_the_few_step_adapter_are_nearer_to_twelve_than_four_without(model):
    import numpy

    def pixels(asked):
        return numpy.asarray(rgb(draw(model, asked)[0]), dtype=int)

    native = replace(PLAIN, width=256, height=256)
    full = pixels(replace(native, steps=12))
    quick = replace(native, guidance_millionths=1_000_000, adapters=((QUICK.id, 1_000_000),))
    assert (
        numpy.abs(pixels(quick) - full).mean() < numpy.abs(pixels(replace(quick, adapters=())) - full).mean()
    )


def test_applying_takes_a_fraction_of_a_step(model):
    """Once its memory was touched; that it takes milliseconds is what the ladder counts on."""
    draw(model, STYLED)
    began_s = time.process_time()
    assert model.adapted.use(((QUICK.id, 1_000_000),), files())
    assert time.process_time() - began_s < 0.5
    assert not model.adapted.use((), files())
    assert not model.adapted.use(((QUICK.id, 1_000_000),), files())
