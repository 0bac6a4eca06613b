"""The published architecture and its weights, against arrays that the reference implementation made."""

import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from clippo.model import Clippo, ClippoConfig, create_model, load_big_vision, load_vit, save_big_vision
from clippo.model.checkpoints.big_vision import big_vision_arrays
from clippo.model.layers import resample_pos_embed
from clippo_kernels import contrastive_loss
from clippo_kernels.dispatch import BACKEND_VARIABLE


@pytest.fixture(scope="module")
def arrays(reference_dir: Path) -> dict[str, np.ndarray]:
    with np.load(reference_dir / "model" / "params.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def expected(reference_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(reference_dir / "model" / "io.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture
def clippo(reference_dir: Path):
    return load_big_vision(reference_dir / "model" / "params.npz")


@pytest.mark.parametrize("backend", ["eager", pytest.param("triton", marks=pytest.mark.slow)])
def test_every_stage_of_the_tower_matches(clippo, expected, monkeypatch, backend):
    if backend == "triton" and torch.cuda.is_available():
        pytest.skip("the interpreter is used where there is no GPU")
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    tower = clippo.tower
    tokens = tower.patch_embed(expected["images"])
    block = tower.encoder.blocks[0](tokens)
    encoded = tower.encoder.forward_features(tokens)
    pooled = tower.encoder.pool(encoded)
    txt_tokens = tower.patch_embed(expected["texts"])
    txt_pooled = tower.encoder.pool(tower.encoder.forward_features(txt_tokens))
    stem = tokens - tower.patch_embed.pos_embed
    for ours, name in [
        (stem, "img_stem"),
        (tokens, "img_with_posemb"),
        (block, "img_block00"),
        (encoded, "img_encoded"),
        (pooled, "img_pre_logits"),
        (tower.encoder.head(pooled), "img_logits"),
        (txt_pooled, "txt_pre_logits"),
        (clippo.encode_image(expected["images"]), "zimg"),
        (clippo.encode_text(expected["texts"]), "ztxt"),
        (clippo.logit_scale.exp(), "t"),
        (clippo.logit_scale, "t_param"),
    ]:
        theirs = expected[name].reshape(ours.shape)
        torch.testing.assert_close(
            ours, theirs, atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_loss_and_gradients_match(clippo, expected, reference_dir):
    z_images, z_texts = clippo(expected["images"], expected["texts"])
    torch.testing.assert_close(z_images, expected["zimg"], atol=1e-5, rtol=0)
    torch.testing.assert_close(z_texts, expected["ztxt"], atol=1e-5, rtol=0)
    loss = contrastive_loss(z_images, z_texts, clippo.logit_scale.exp())
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)

    loss.backward()
    with np.load(reference_dir / "model" / "grads.npz") as file:
        expected = {name.removeprefix("params/"): file[name] for name in file.files}
    ours = {name: parameter.grad for name, parameter in clippo.named_parameters()}
    largest = max(np.abs(array).max() for array in expected.values())
    gradients = dict(big_vision_arrays(ours, clippo.config))
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        # The bias of the keys changes no softmax: its gradient is rounding alone.
        scale = max(np.abs(expected[name]).max(), 1e-3 * largest)
        assert np.abs(gradient - expected[name]).max() < 1e-4 * scale, name


def test_optimizer_state_is_ignored_and_the_prefix_optional(arrays, clippo, tmp_path):
    bare = {name.removeprefix("params/"): array for name, array in arrays.items()}
    np.savez(tmp_path / "bare.npz", **bare)
    # bfloat16 momentum comes back from a file as raw bytes of two, and must not be touched.
    np.savez(tmp_path / "full.npz", **arrays, **{"opt/0/mu": np.zeros(3, "V2"), "chrono/seconds": np.ones(1)})
    for file in ("bare.npz", "full.npz"):
        loaded = load_big_vision(tmp_path / file).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in clippo.state_dict().items())


def save(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda a: save({k: v for k, v in a.items() if "Dense_1/kernel" not in k}),
            "Dense_1/kernel.*found nothing",
        ),
        (lambda a: save(a | {"params/img/cls": np.zeros(3, np.float32)}), "img/cls: not a part of it"),
        (
            lambda a: save(a | {"params/img/head/bias": np.zeros(7, np.float32)}),
            r"img/head/bias.*\(32,\).*\(7,\)",
        ),
        (lambda a: save(a | {"params/t": np.zeros(1, np.float16)}), "t: expected float32.*float16"),
        (lambda a: save(a | {"params/t": np.array([{"pickled": 1}])}), "pickle"),
        (lambda a: save({"a": np.zeros(1)}), "no array 'img/embedding/kernel'"),
        (lambda a: save(a)[:-1000], "cannot be read as a CLIPPO checkpoint"),
        (lambda a: b"no archive at all", "cannot be read as a CLIPPO checkpoint"),
        (lambda a: b"", "cannot be read as a CLIPPO checkpoint"),
    ],
)
def test_what_is_not_a_checkpoint_is_refused(arrays, tmp_path, content, message):
    path = tmp_path / "x.npz"
    path.write_bytes(content(arrays))
    with pytest.raises(ValueError, match=message):
        load_big_vision(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_big_vision(tmp_path / "none.npz")


def same(one: Clippo, other: Clippo) -> bool:
    tensors, others = one.state_dict(), other.state_dict()
    return tensors.keys() == others.keys() and all(torch.equal(tensors[k], others[k]) for k in tensors)


@pytest.mark.parametrize("scan", [False, True])
def test_round_trip(arrays, clippo, tmp_path, scan):
    """The arrays of the reference come out as they came in, bit for bit, also if they are stacked."""
    save_big_vision(clippo, tmp_path / "x.npz", scan=scan)
    assert same(load_big_vision(tmp_path / "x.npz"), clippo)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
    with np.load(tmp_path / "x.npz") as file:
        written = {re.sub(r"encoderblock/", "encoderblock_0/", name): file[name] for name in file.files}
    assert written.keys() == arrays.keys()
    for name, array in arrays.items():
        stacked = scan and "encoderblock" in name
        np.testing.assert_array_equal(written[name], array[None] if stacked else array)


@pytest.mark.slow
def test_stacked_blocks_keep_their_order(tmp_path):
    model = create_model("clippo-ti32", image_size=64, embed_dim=8)
    save_big_vision(model, tmp_path / "x.npz", scan=True)
    assert same(load_big_vision(tmp_path / "x.npz"), model)
    with np.load(tmp_path / "x.npz") as file:
        arrays = dict(file)
    scale = "params/img/Transformer/encoderblock/LayerNorm_0/scale"
    np.savez(tmp_path / "short.npz", **arrays | {scale: arrays[scale][:-1]})
    with pytest.raises(ValueError, match=r"LayerNorm_0/scale: expected float32 \(12, 192\), found .* \(11"):
        load_big_vision(tmp_path / "short.npz")
    fortran = {name: np.asfortranarray(array) for name, array in arrays.items()}
    np.savez_compressed(tmp_path / "other.npz", **fortran)
    assert same(load_big_vision(tmp_path / "other.npz"), model)


def test_position_embedding_is_resampled_as_the_reference_does(reference_dir, arrays, tmp_path):
    with np.load(reference_dir / "model" / "posemb.npz") as file:
        old, to_24, to_7 = (torch.from_numpy(file[name]) for name in ("old", "to24", "to7"))
    old = old.reshape(1, 14 * 14, -1)
    for expected, side in ((to_24, 24), (to_7, 7)):
        ours = resample_pos_embed(old, side**2)
        torch.testing.assert_close(ours, expected.reshape(ours.shape), atol=1e-6, rtol=1e-6)
    np.savez(tmp_path / "x.npz", **arrays)
    larger = load_big_vision(tmp_path / "x.npz", image_size=96)
    assert larger.encode_image(torch.zeros(1, 96, 96, 3)).shape == (1, 32)
    own = load_big_vision(tmp_path / "x.npz").tower.patch_embed.pos_embed
    torch.testing.assert_close(larger.tower.patch_embed.pos_embed, resample_pos_embed(own, 36))
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size, got 100"):
        load_big_vision(tmp_path / "x.npz", image_size=100)


def old_names(model: Clippo, *, class_token: bool) -> dict[str, np.ndarray]:
    """The tower of a model as a file of AugReg's has it: its names, a class token, a head of 21,843."""
    out = {}
    for name, array in big_vision_arrays(model.state_dict(), model.config):
        if not name.startswith("img/") or "MAPHead" in name or "head/" in name:
            continue
        name = name.removeprefix("img/")
        name = re.sub(r"(encoderblock_\d+)/LayerNorm_1/", r"\1/LayerNorm_2/", name)
        name = name.replace("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1")
        name = name.replace("MlpBlock_0", "MlpBlock_3")
        out[name.replace("pos_embedding", "Transformer/posembed_input/pos_embedding")] = array
    width = model.config.width
    if class_token:
        key = "Transformer/posembed_input/pos_embedding"
        out[key] = np.concatenate([np.full((1, 1, width), 99, np.float32), out[key]], axis=1)
        out["cls"] = np.zeros((1, 1, width), np.float32)
    return out | {
        "pre_logits/kernel": np.zeros((width, width), np.float32),
        "pre_logits/bias": np.zeros(width, np.float32),
        "head/kernel": np.zeros((width, 21_843), np.float32),
        "head/bias": np.zeros(21_843, np.float32),
    }


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_starting_from_a_classifier(tmp_path, class_token, prefix):
    vit = create_model("clippo-mu16", image_size=64, embed_dim=8)
    arrays = old_names(vit, class_token=class_token)
    np.savez(tmp_path / "vit.npz", **{prefix + name: array for name, array in arrays.items()})
    for size in (64, 96):
        model = create_model("clippo-mu16", image_size=size, embed_dim=8)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        load_vit(model, tmp_path / "vit.npz")
        for name, value in model.state_dict().items():
            kept = name == "logit_scale" or name.startswith(("tower.encoder.pool.", "tower.encoder.head."))
            expected = before[name] if kept else vit.state_dict()[name]
            if name == "tower.patch_embed.pos_embed":
                expected = resample_pos_embed(expected, (size // 16) ** 2)
            assert torch.equal(value, expected), name


def test_a_classifier_that_does_not_fit_leaves_the_model_as_it_was(tmp_path):
    vit = create_model("clippo-mu16", image_size=64, embed_dim=8)
    arrays = old_names(vit, class_token=True)
    np.savez(tmp_path / "vit.npz", **arrays)
    other = Clippo(ClippoConfig(**vars(vit.config) | {"mlp_dim": 64}))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    message = "cannot be read as a ViT for this model: 3 arrays do not fit.*MlpBlock_0/Dense_0"
    with pytest.raises(ValueError, match=message):
        load_vit(other, tmp_path / "vit.npz")
    with pytest.raises(ValueError, match="head/kernel: expected"):
        load_vit(vit, tmp_path / "vit.npz", dont_load=["^MAPHead_0/", "^cls$", "^pre_logits/"])
    with pytest.raises(ValueError, match="cls: not a part of it"):
        load_vit(vit, tmp_path / "vit.npz", dont_load=["^MAPHead_0/", "^head/", "^pre_logits/"])
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_a_damaged_classifier_leaves_the_model_as_it_was(tmp_path):
    vit = create_model("clippo-mu16", image_size=64, embed_dim=8)
    np.savez(tmp_path / "vit.npz", **old_names(vit, class_token=True))
    content = bytearray((tmp_path / "vit.npz").read_bytes())
    content[content.rindex(b"embedding/bias.npy", 0, len(content) // 2) + 200] ^= 1
    (tmp_path / "vit.npz").write_bytes(content)
    model = create_model("clippo-mu16", image_size=64, embed_dim=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"cannot be read as a ViT for this model: Bad CRC-32"):
        load_vit(model, tmp_path / "vit.npz")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_values_that_are_not_finite_are_refused(arrays, tmp_path):
    broken = {name: value.copy() for name, value in arrays.items()}
    name = next(name for name in broken if name.endswith("head/bias"))
    broken[name][0] = np.inf
    np.savez(tmp_path / "broken.npz", **broken)
    with pytest.raises(ValueError, match="head/bias holds values that are not finite"):
        load_big_vision(tmp_path / "broken.npz")
    vit = create_model("clippo-mu16", image_size=64, embed_dim=8)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    content = old_names(vit, class_token=True)
    content["Transformer/encoder_norm/scale"] = content["Transformer/encoder_norm/scale"] * np.nan
    np.savez(tmp_path / "vit.npz", **content)
    with pytest.raises(ValueError, match="encoder_norm/scale holds values that are not finite"):
        load_vit(vit, tmp_path / "vit.npz")
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match=r"pipe\.npz is not a file"):
        load_big_vision(tmp_path / "pipe.npz")


@pytest.mark.long
def test_whatever_byte_is_wrong_it_is_one_kind_of_error(arrays, tmp_path):
    whole = save(arrays)
    rng = np.random.default_rng(0)
    path = tmp_path / "x.npz"
    refused = 0
    for _ in range(300):
        broken = bytearray(whole)
        if rng.random() < 0.2:
            del broken[rng.integers(len(whole)) :]
        # The last bytes are the list of members; before each array stand its name, shape and length.
        start, bytes_changed = (len(whole) - 30_000, 4) if rng.random() < 0.5 else (0, 40)
        for position in rng.integers(start, len(whole), bytes_changed):
            broken[position % len(broken)] = rng.integers(256)
        path.write_bytes(broken)
        try:
            load_big_vision(path)
        except ValueError as error:
            refused += f"{path} cannot be read as a CLIPPO checkpoint" in str(error)
    assert refused > 200  # the others had only bytes changed that nobody reads


def test_an_array_that_promises_more_than_it_has(arrays, tmp_path):
    """A header of terabytes over a few bytes is refused before anything is allocated."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                if name == "params/img/head/kernel":
                    np.lib.format.write_array_header_1_0(
                        file, {"descr": "<f4", "fortran_order": False, "shape": (32, 2**40)}
                    )
                    file.write(b"few")
                else:
                    np.lib.format.write_array(file, array)
    with pytest.raises(ValueError, match="img/head/kernel should take .* bytes, and has"):
        load_big_vision(path)


PEAK = """
import resource, sys, torch
from clippo.model import load_big_vision
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_big_vision(sys.argv[1])  # what is loaded once: code, tables
before = peak()
model = load_big_vision(sys.argv[2])
size = sum(4 * parameter.numel() for parameter in model.parameters())
print((peak() - before) / size)
"""


@pytest.mark.long
@pytest.mark.parametrize("scan", [False, True])
def test_loading_takes_little_more_memory_than_the_parameters(tmp_path, scan):
    small = create_model("clippo-mu16", image_size=64)
    large = create_model("clippo-s16", depth=24)
    for name, model in (("small", small), ("large", large)):
        save_big_vision(model, tmp_path / f"{name}.npz", scan=scan)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small.npz"), str(tmp_path / "large.npz")]
    assert float(subprocess.check_output(command, text=True)) < 1.3


def test_a_compiled_model_is_saved_as_the_model(clippo, tmp_path):
    save_big_vision(clippo, tmp_path / "plain.npz")
    save_big_vision(torch.compile(clippo), tmp_path / "compiled.npz")
    assert (tmp_path / "plain.npz").read_bytes() == (tmp_path / "compiled.npz").read_bytes()
