import json
import os
import shutil
import subprocess
import sys

import pytest

from peer.store.digests import DigestCache
from peer.store.models import ModelError, reference_model_folder, scan_folder
from protocol.wire.statement import Statement

SD = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SDXL = SD | {
    "_class_name": "StableDiffusionXLPipeline",
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "force_zeros_for_empty_prompt": True,
}
DIT = {key: value for key, value in SDXL.items() if key != "unet"}
FLUX = DIT | {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
SD3 = DIT | {
    "_class_name": "StableDiffusion3Pipeline",
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "text_encoder_3": [None, None],
    "tokenizer_3": [None, None],
}


def put(folder, path, data):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def safetensors(size=64, fill=b"\x07"):
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + fill * size


def build(folder, index=SD, **tokenizer):
    put(folder, "model_index.json", index)
    for part, value in index.items():
        if not isinstance(value, list) or value[0] is None:
            continue
        if part == "scheduler":
            put(folder, "scheduler/scheduler_config.json", {"_class_name": value[1], "beta_start": 0.00085})
        elif part.startswith("tokenizer"):
            put(folder, f"{part}/vocab.json", {"a": 0, "b": 1})
            put(folder, f"{part}/merges.txt", b"#version: 0.2\na b\n")
            put(folder, f"{part}/tokenizer_config.json", {"model_max_length": 77} | tokenizer)
        elif part.startswith("text_encoder"):
            put(folder, f"{part}/config.json", {"model_type": "clip", "transformers_version": "5.0"})
            put(folder, f"{part}/model.safetensors", safetensors())
        else:
            config = {"_class_name": value[1], "block_out_channels": [1, 2, 3, 4], "sample_size": 64}
            put(folder, f"{part}/config.json", config)
            put(folder, f"{part}/diffusion_pytorch_model.safetensors", safetensors())
    return folder


@pytest.fixture
def sd(tmp_path):
    return build(tmp_path / "sd")


def change(folder, path, **fields):
    put(folder, path, json.loads((folder / path).read_bytes()) | fields)


def test_a_folder_is_read_as_the_pipeline_loads_it(sd):
    put(sd, "unet/diffusion_pytorch_model.bin", b"a pickle that nobody loads")
    put(sd, "README.md", b"words")
    put(sd, "safety_checker/model.safetensors", b"not loaded")
    model = scan_folder(sd)
    assert (model.family, model.pipeline, model.variant) == ("sd", "StableDiffusionPipeline", "")
    assert (model.native, limits(model), model.name) == ((512, 512), [77], "sd")
    assert len(model.id) == 32
    assert [file.path for file in model.files] == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert model.bytes == sum(file.bytes for file in model.files)


@pytest.mark.parametrize(
    ("index", "family", "native", "readers"),
    [
        (SDXL, "sdxl", (512, 512), 2),
        (SD3, "sd3", (512, 512), 2),
        (FLUX, "flux", (1024, 1024), 2),
        (SD3 | {"text_encoder_3": SD["text_encoder"], "tokenizer_3": SD["tokenizer"]}, "sd3", (512, 512), 3),
    ],
)
def test_each_family_is_known(tmp_path, index, family, native, readers):
    model = scan_folder(build(tmp_path / "model", index))
    assert (model.family, model.native, limits(model)) == (family, native, [77] * readers)
    assert ("text_encoder_3/model.safetensors" in {file.path for file in model.files}) == (
        index.get("text_encoder_3", [None])[0] is not None
    )


def limits(model):
    return [reader.limit for reader in model.abilities.readers]


def test_how_long_a_prompt_may_be_is_what_each_tokenizer_says_and_the_pipeline_gives_its_encoder(tmp_path):
    t5 = {"tokenizer_2": ["transformers", "T5TokenizerFast"]}
    folder = build(tmp_path / "flux", FLUX | t5, model_max_length=1024)
    assert limits(scan_folder(folder)) == [1024, 512]
    folder = build(tmp_path / "sdxl", SDXL)
    change(folder, "tokenizer_2/tokenizer_config.json", model_max_length=64)
    assert limits(scan_folder(folder)) == [77, 64]
    assert limits(scan_folder(build(tmp_path / "sd", model_max_length=10**30))) == []


def test_what_a_model_can_draw_is_known_without_loading_it(tmp_path):
    sd = scan_folder(build(tmp_path / "sd")).abilities
    assert (sd.cell_px, sd.most_steps, sd.guided) == (8, 1000, True)
    folder = build(tmp_path / "flux", FLUX)
    change(folder, "scheduler/scheduler_config.json", num_train_timesteps=50)
    assert (scan_folder(folder).abilities.most_steps, scan_folder(folder).abilities.guided) == (50, False)
    change(folder, "transformer/config.json", guidance_embeds=True)
    assert scan_folder(folder).abilities.guided


def test_a_prompt_is_counted_only_where_it_may_be_too_long(sd):
    model = scan_folder(sd)
    assert model.surely_reads(statement(prompt="g" * 73))
    assert not model.surely_reads(statement(prompt="g" * 74))
    assert not model.surely_reads(statement(negative="\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"))
    assert not scan_folder(build(sd, model_max_length=10**30)).surely_reads(statement())


def test_a_tokenizer_that_cannot_be_read_is_a_sentence(sd):
    put(sd, "tokenizer/vocab.json", b"{")
    failed = scan_folder(sd).why_not_read(statement(prompt="g" * 99))
    assert (failed.code, failed.sentence) == ("load_failed", "The model's tokenizer cannot be read.")


def statement(**changes):
    plain = {"prompt": "", "width": 64, "height": 64, "steps": 1, "guidance_millionths": 5_000_000}
    plain |= {"model": b"m" * 32, "sampler": "ddim", "seed": 0, "salt": bytes(16), "precision": "fp32"}
    return Statement(**{**plain, **changes})


def as_hub_cache(folder, cache):
    """The layout of huggingface_hub: blobs by hash, a snapshot of links to them."""
    repository = cache / "models--owner--some-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"{number:040x}"
        link = repository / "snapshots" / commit / path.relative_to(folder)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    put(repository, "refs/main", commit.encode())
    return repository, repository / "snapshots" / commit


def test_a_hub_cache_and_a_saved_folder_of_the_same_weights_have_one_id(sd, tmp_path):
    repository, snapshot = as_hub_cache(sd, tmp_path / "hub")
    change(sd, "model_index.json", _diffusers_version="0.40.0", safety_checker=[None, None])
    change(sd, "model_index.json", requires_safety_checker=False, _name_or_path="/home/me/sd")
    change(sd, "unet/config.json", _name_or_path="/home/me/sd/unet", _diffusers_version="0.40.0")
    change(sd, "text_encoder/config.json", transformers_version="5.1", dtype="float32")
    change(
        sd, "tokenizer/tokenizer_config.json", is_local=True, backend="tokenizers", name_or_path="/home/me"
    )
    saved = scan_folder(sd)
    assert scan_folder(snapshot).id == saved.id
    model = scan_folder(repository)
    assert (model.id, model.folder, model.name) == (saved.id, snapshot, "owner/some-model")


def test_a_hub_cache_with_several_snapshots_and_no_main_must_be_told_which(sd, tmp_path):
    repository, snapshot = as_hub_cache(sd, tmp_path / "hub")
    (repository / "refs" / "main").unlink()
    assert scan_folder(repository).folder == snapshot
    (snapshot.parent / "other").mkdir()
    with pytest.raises(ModelError, match="has 2 snapshots"):
        scan_folder(repository)


@pytest.mark.parametrize(
    "path",
    ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/merges.txt"],
)
def test_one_changed_byte_of_a_weight_or_table_is_another_model(sd, path):
    before = scan_folder(sd).id
    data = bytearray((sd / path).read_bytes())
    data[-1] ^= 1
    (sd / path).write_bytes(data)
    assert scan_folder(sd).id != before


def test_a_changed_setting_is_another_model(sd):
    before = scan_folder(sd).id
    change(sd, "scheduler/scheduler_config.json", prediction_type="v_prediction")
    assert scan_folder(sd).id != before


def test_where_there_is_a_whole_tokenizer_its_tables_do_not_count(sd):
    put(sd, "tokenizer/tokenizer.json", {"model": {"vocab": {"a": 0}, "merges": []}})
    before = scan_folder(sd)
    assert "tokenizer/tokenizer.json" in {file.path for file in before.files}
    for name in ("vocab.json", "merges.txt"):
        (sd / "tokenizer" / name).unlink()
    assert scan_folder(sd).id == before.id


def shard(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for number in (1, 2):
        put(folder, f"unet/diffusion_pytorch_model-0000{number}-of-00002.safetensors", safetensors())
    names = {f"w{number}": f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    put(folder, "unet/diffusion_pytorch_model.safetensors.index.json", {"metadata": {}, "weight_map": names})


def test_sharded_weights_are_read_through_their_index(sd):
    shard(sd)
    before = scan_folder(sd)
    assert [file.path for file in before.files if file.path.startswith("unet/")] == [
        "unet/config.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
    ]
    change(sd, "unet/diffusion_pytorch_model.safetensors.index.json", metadata={"total_size": 128})
    assert scan_folder(sd).id == before.id


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        ({"w": "../vae/diffusion_pytorch_model.safetensors"}, "safetensors files beside it"),
        ({"w": "/etc/passwd"}, "safetensors files beside it"),
        ({"w": "weights.bin"}, "safetensors files beside it"),
        ({}, "does not name 1 to"),
        ({"w": 7}, "has no weight_map"),
        ({"w": "a.safetensors", "v": "A.safetensors"}, "differ in case only"),
        ({"w": "gone.safetensors"}, r"unet/gone\.safetensors is missing"),
    ],
)
def test_an_index_names_only_safetensors_beside_it(sd, weight_map, sentence):
    shard(sd)
    put(sd, "unet/diffusion_pytorch_model.safetensors.index.json", {"weight_map": weight_map})
    for name in ("a", "A"):
        put(sd, f"unet/{name}.safetensors", safetensors())
    with pytest.raises(ModelError, match=sentence):
        scan_folder(sd)


def test_half_precision_files_are_a_variant(sd):
    plain = scan_folder(sd)
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (sd / part / f"{stem}.safetensors").rename(sd / part / f"{stem}.fp16.safetensors")
    model = scan_folder(sd)
    assert model.variant == "fp16"
    assert model.id != plain.id
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in {file.path for file in model.files}


def _pickled(folder):
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/diffusion_pytorch_model.bin")


def _custom(folder):
    change(folder, "model_index.json", unet=["my_code", "Net"])


def _truncated(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: put(folder, "model_index.json", b"{"), "model_index.json is not JSON"),
        (lambda folder: put(folder, "model_index.json", b"[]"), "is not a JSON object"),
        (lambda folder: put(folder, "model_index.json", b" " * (2 << 20)), "larger than 1048576 bytes"),
        (
            lambda folder: change(folder, "model_index.json", _class_name="KandinskyPipeline"),
            "its pipeline is 'KandinskyPipeline', and only these are known: StableDiffusionPipeline",
        ),
        (lambda folder: change(folder, "model_index.json", _class_name=["x"]), r"its pipeline is \['x'\]"),
        (_custom, r"its unet is \['my_code', 'Net'\], which is not a class of diffusers or transformers"),
        (lambda folder: change(folder, "model_index.json", vae=[None, None]), "names no vae"),
        (lambda folder: shutil.rmtree(folder / "vae"), "its folder vae is missing"),
        (
            _pickled,
            r"its unet are pickled \(unet/diffusion_pytorch_model\.bin\), and a pickle can run any program",
        ),
        (
            lambda folder: (folder / "text_encoder/model.safetensors").unlink(),
            r"text_encoder/model\.safetensors is miss",
        ),
        (lambda folder: (folder / "vae/config.json").unlink(), r"vae/config\.json is missing"),
        (lambda folder: (folder / "tokenizer/vocab.json").unlink(), "has neither a tokenizer.json nor"),
        (
            lambda folder: (folder / "scheduler/scheduler_config.json").unlink(),
            "scheduler_config.json is missing",
        ),
        (_truncated, "an interrupted download"),
        (
            lambda folder: put(
                folder, "vae/diffusion_pytorch_model.safetensors", b"version https://git-lfs\n" * 5
            ),
            "is no safetensors file",
        ),
        (
            lambda folder: put(folder, "vae/diffusion_pytorch_model.safetensors", b""),
            "is no safetensors file",
        ),
        (
            lambda folder: put(folder, "vae/diffusion_pytorch_model.safetensors", b"\x02" + bytes(7) + b"[]"),
            "is no safetensors file",
        ),
        (lambda folder: change(folder, "unet/config.json", sample_size=None), "states no sample_size"),
        (
            lambda folder: change(folder, "unet/config.json", sample_size=10**6),
            "native size would be 8000000x8000000",
        ),
        (
            lambda folder: change(folder, "vae/config.json", block_out_channels=7),
            "states no block_out_channels",
        ),
    ],
)
def test_refused(sd, spoil, sentence):
    spoil(sd)
    with pytest.raises(ModelError, match=sentence) as refused:
        scan_folder(sd)
    assert str(sd) in str(refused.value)


def test_a_tiny_autoencoder_has_its_own_name_for_its_blocks(sd):
    put(sd, "vae/config.json", {"decoder_block_out_channels": [48, 48, 48]})
    change(sd, "unet/config.json", sample_size=[16, 24])
    model = scan_folder(sd)
    assert model.native == (96, 64)
    change(sd, "vae/config.json", block_out_channels=[48, 48, 48])
    assert scan_folder(sd) == model


def test_a_second_scan_hashes_nothing_and_a_changed_file_again(sd, tmp_path):
    path = tmp_path / "home" / "models.json"
    first = DigestCache(path)
    model = scan_folder(sd, first)
    assert first.statistics() == {"files": 3, "hits": 0, "misses": 3}
    second = DigestCache(path)
    assert scan_folder(sd, second) == model
    assert second.statistics() == {"files": 3, "hits": 3, "misses": 0}
    put(sd, "unet/diffusion_pytorch_model.safetensors", safetensors(fill=b"\x08"))
    os.utime(sd / "unet/diffusion_pytorch_model.safetensors", ns=(1, 1))
    third = DigestCache(path)
    assert scan_folder(sd, third).id != model.id
    assert third.statistics() == {"files": 3, "hits": 2, "misses": 1}


@pytest.mark.parametrize(
    "contents", [b"", b"[]", b'{"files": {"/x": 7}}', b'{"files": {"/x": [1, 2, "zz"]}}', b"\xff"]
)
def test_a_broken_cache_is_made_again(sd, tmp_path, contents):
    path = tmp_path / "models.json"
    path.write_bytes(contents)
    cache = DigestCache(path)
    scan_folder(sd, cache)
    assert cache.statistics()["misses"] == 3
    assert DigestCache(path).statistics()["files"] == 3


def dtype_of(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    (dtype,) = {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}
    return {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[dtype]


@pytest.mark.slow
def test_the_model_that_ships_keeps_its_id_when_diffusers_saves_it_again(tmp_path):
    folder = reference_model_folder()
    if not folder.is_dir():
        pytest.skip("the reference model is not in this checkout")
    code = (
        "import json, sys, torch, diffusers\n"
        "torch.set_num_threads(1)\n"
        "dtypes = {part: getattr(torch, dtype) for part, dtype in json.loads(sys.argv[3]).items()}\n"
        "pipeline = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=dtypes)\n"
        "pipeline.save_pretrained(sys.argv[2])"
    )
    dtypes = {path.parent.name: dtype_of(path) for path in folder.glob("*/*.safetensors")} | {
        "default": "float32"
    }
    subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "again"), json.dumps(dtypes)],
        check=True,
        capture_output=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert scan_folder(tmp_path / "again").id == scan_folder(folder).id


def test_the_model_that_ships_is_inside_the_package():
    assert reference_model_folder().parts[-2:] == ("peer", "reference_model")
