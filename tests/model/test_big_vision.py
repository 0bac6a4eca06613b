"""The published architecture and its weights, against arrays that the reference implementation made."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from clippo_kernels import contrastive_loss
from clippo_kernels.dispatch import BACKEND_VARIABLE
from model import load_big_vision
from model.big_vision import reference_arrays


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


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_every_stage_of_the_tower_matches(clippo, expected, monkeypatch, backend):
    if backend == "triton" and torch.cuda.is_available():
        pytest.skip("the interpreter is used where there is no GPU")
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    tower = clippo.tower
    tokens = tower.embed(expected["images"])
    block = tower.blocks[0](tokens)
    encoded = tower.encode(tokens)
    pooled = tower.pool(encoded)
    stem = tokens - tower.pos_embed
    for ours, name in [
        (stem, "img_stem"),
        (tokens, "img_with_posemb"),
        (block, "img_block00"),
        (encoded, "img_encoded"),
        (pooled, "img_pre_logits"),
        (tower.head(pooled), "img_logits"),
        (tower.pool(tower.encode(tower.embed(expected["texts"]))), "txt_pre_logits"),
        (clippo.encode_image(expected["images"]), "zimg"),
        (clippo.encode_text(expected["texts"]), "ztxt"),
        (clippo.logit_scale, "t"),
        (clippo.log_scale, "t_param"),
    ]:
        theirs = expected[name].reshape(ours.shape)
        torch.testing.assert_close(
            ours, theirs, atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_loss_and_gradients_match(clippo, expected, reference_dir):
    z_images, z_texts = clippo(expected["images"], expected["texts"])
    torch.testing.assert_close(z_images, expected["zimg"], atol=1e-5, rtol=0)
    torch.testing.assert_close(z_texts, expected["ztxt"], atol=1e-5, rtol=0)
    loss = contrastive_loss(z_images, z_texts, clippo.logit_scale)
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)

    loss.backward()
    with np.load(reference_dir / "model" / "grads.npz") as file:
        expected = {name.removeprefix("params/"): file[name] for name in file.files}
    ours = {name: parameter.grad for name, parameter in clippo.named_parameters()}
    largest = max(np.abs(array).max() for array in expected.values())
    gradients = dict(reference_arrays(ours, clippo.config))
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
        (lambda a: save(a)[:-1000], "not a CLIPPO checkpoint"),
        (lambda a: b"no archive at all", "not a CLIPPO checkpoint"),
        (lambda a: b"", "not a CLIPPO checkpoint"),
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
