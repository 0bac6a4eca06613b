"""What people call: encoders that take what people have."""

import copy
import dataclasses
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from clippo.model import Clippo, ClippoConfig, RenderedTextConfig, create_model
from clippo.renderer import ParagraphRenderer, UnifontRenderer, compose

TEXTS = ["a cat", "Ein Hund", "一只猫"]


@pytest.fixture(scope="module")
def clippo() -> Clippo:
    torch.manual_seed(0)
    return create_model("clippo-mu16", image_size=64, embed_dim=8)


@pytest.fixture
def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((40, 30, 3), (64, 64, 3), (9, 200, 3))]


def test_images_of_any_kind(clippo, photographs):
    ready = np.stack([clippo.preprocess_image(image) for image in photographs])
    expected = clippo.encode_image(torch.from_numpy(ready))
    assert expected.shape == (3, 8)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(3))
    for same in (
        photographs,
        tuple(map(Image.fromarray, photographs)),
        [photographs[0], Image.fromarray(photographs[1]), torch.from_numpy(photographs[2])],
        ready,
    ):
        assert torch.equal(clippo.encode_image(same), expected)
    torch.testing.assert_close(clippo.encode_image(photographs, batch_size=2), expected)
    raw = clippo.encode_image(photographs, normalize=False)
    torch.testing.assert_close(torch.nn.functional.normalize(raw, dim=1), expected)
    assert (raw.norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize(
    "view",
    [
        lambda pixels: pixels[..., ::-1],
        lambda pixels: pixels[:, :, ::-1],
        lambda pixels: pixels[::-1],
        lambda pixels: (pixels / 127.5 - 1).astype(">f4"),
    ],
    ids=["channels reversed", "mirrored", "batch reversed", "big-endian"],
)
def test_views_of_arrays(clippo, view):
    S = clippo.config.image_size
    pixels = view(np.random.default_rng(0).integers(0, 256, (2, S, S, 3), np.uint8))
    copy = pixels.astype(pixels.dtype.newbyteorder("="), order="C")
    torch.testing.assert_close(clippo.encode_image(pixels), clippo.encode_image(copy), rtol=0, atol=0)
    torch.testing.assert_close(clippo.encode_image(list(pixels)), clippo.encode_image(copy))


def test_texts_of_any_kind(clippo):
    """Strings, drawn by the published renderer, and pixels."""
    pixels = UnifontRenderer(64)(TEXTS)
    expected = clippo.encode_text(TEXTS)
    for same in (pixels, torch.from_numpy(pixels), torch.from_numpy(pixels)[..., None], tuple(TEXTS)):
        assert torch.equal(clippo.encode_text(same), expected)
    other = Clippo(clippo.config, ParagraphRenderer(64))
    other.load_state_dict(clippo.state_dict())
    assert torch.equal(other.encode_text(TEXTS), clippo.encode_text(ParagraphRenderer(64)(TEXTS)))


def test_nothing_gives_nothing(clippo):
    for nothing in ([], np.empty((0, 64, 64), np.uint8)):
        assert clippo.encode_text(nothing).shape == clippo.encode_image(nothing).shape == (0, 8)
    assert clippo.similarity([], TEXTS).shape == (0, 3)


def test_what_is_no_batch(clippo, photographs):
    with pytest.raises(TypeError, match="expected a batch of pixels, or a sequence, got one str"):
        clippo.encode_text("one string")
    with pytest.raises(TypeError, match="got one Image"):
        clippo.encode_image(Image.fromarray(photographs[0]))
    with pytest.raises(ValueError, match=r"images must be 64 x 64 px, got shape \(1, 40, 30, 3\)"):
        clippo.encode_image(photographs[0][None])
    with pytest.raises(TypeError, match=r"texts\[1\] is int"):
        clippo.encode_text(["a", 1])


def test_text_in_images(clippo, photographs):
    questions = ["what?", "", "how many"]
    renderer = UnifontRenderer(64)
    for position in ("top", "bottom"):
        expected = clippo.encode_image(compose(photographs, questions, renderer, position))
        found = clippo.encode_image_text(
            list(map(Image.fromarray, photographs)), questions, position=position
        )
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="as many as images"):
        clippo.encode_image_text(photographs, questions[:2])


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_an_image_without_a_question_is_the_image_itself(resize):
    config = dataclasses.replace(create_model("clippo-mu16", image_size=64).config, resize=resize)
    clippo = Clippo(config, ParagraphRenderer(64)).eval()
    image = np.random.default_rng(0).integers(0, 256, (90, 50, 3), dtype=np.uint8)
    torch.testing.assert_close(clippo.encode_image_text([image], [""]), clippo.encode_image([image]))


def test_similarity(clippo, photographs):
    expected = clippo.encode_image(photographs) @ clippo.encode_text(TEXTS).T
    assert torch.equal(clippo.similarity(photographs, TEXTS), expected)
    assert expected.abs().max() <= 1 + 1e-6


def test_embeddings_can_be_trained_on(clippo, photographs):
    """They are constants, not what inference mode leaves, which no other model could save for a backward."""
    z = clippo.encode_image(photographs)
    assert not z.requires_grad
    probe = torch.nn.Linear(8, 2)
    probe(z).sum().backward()
    assert probe.weight.grad is not None


def test_on_other_dtypes(clippo, photographs):
    expected = clippo.encode_image(photographs)
    half = copy.deepcopy(clippo).to(torch.bfloat16)
    torch.testing.assert_close(half.encode_image(photographs), expected, atol=0.03, rtol=0)
    double = copy.deepcopy(clippo).double()
    torch.testing.assert_close(double.encode_image(photographs), expected, atol=1e-5, rtol=0)


def test_copies_draw_as_well(clippo):
    for other in (copy.deepcopy(clippo), pickle.loads(pickle.dumps(clippo))):  # noqa: S301
        assert torch.equal(other.encode_text(TEXTS), clippo.encode_text(TEXTS))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(clippo, photographs):
    on_gpu = copy.deepcopy(clippo).cuda()
    for mode in ("all", "inked"):
        on_gpu.config = dataclasses.replace(on_gpu.config, text_tokens=mode)
        clippo_there = on_gpu.encode_text(TEXTS)
        assert clippo_there.device.type == "cuda"
        assert clippo_there.dtype == torch.float32
    torch.testing.assert_close(
        on_gpu.encode_image(photographs).cpu(), clippo.encode_image(photographs), atol=0.03, rtol=0
    )


def test_the_background_decides_what_is_ink(clippo):
    config = dataclasses.replace(clippo.config, text=RenderedTextConfig(tokens="inked"))
    model = Clippo(config, UnifontRenderer(64, background=255))
    texts = model.tokenize(["word"])
    assert model.text_input.mask(texts).sum() < 4
    model.text_input.renderer = UnifontRenderer(64)
    assert model.text_input.mask(texts).sum() == 16


def test_a_model_starts_on_the_meta_device(clippo):
    with torch.device("meta"):
        model = Clippo(clippo.config)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    torch.manual_seed(0)
    model.init_weights()
    torch.manual_seed(0)
    clippo.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, clippo.state_dict()[name]), name


def test_the_checksum_is_of_the_weights_and_not_of_a_file(clippo, tmp_path):
    checksum = clippo.weights_sha256()
    clippo.save_pretrained(tmp_path)
    assert Clippo.from_pretrained(tmp_path).weights_sha256() == checksum
    other = copy.deepcopy(clippo)
    assert other.weights_sha256() == checksum
    with torch.no_grad():
        other.logit_scale[0] += 1e-6
    assert other.weights_sha256() != checksum
    assert copy.deepcopy(clippo).half().weights_sha256() != checksum


def test_texts_that_are_cut_are_warned_of_once():
    config = ClippoConfig(
        width=16, depth=1, mlp_dim=32, num_heads=2, patch_size=16, image_size=64, embed_dim=8
    )
    clippo = Clippo(config)
    clippo.encode_text(["a cat"])
    with pytest.warns(UserWarning, match="1 of 2 texts are too long for the model and were cut"):
        clippo.encode_text(["a cat", "word " * 50])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clippo.encode_text(["word " * 50])


@pytest.mark.parametrize("kind", [list, np.stack, lambda images: torch.from_numpy(np.stack(images))])
def test_floating_images_of_another_range(clippo, kind):
    side = clippo.config.image_size
    images = [np.random.default_rng(0).random((side, side, 3), np.float32) for _ in range(2)]
    clippo.encode_image(kind([2 * image - 1 for image in images]))
    with pytest.warns(UserWarning, match=r"read as in \[-1, 1\], and these are all positive"):
        clippo.encode_image(kind(images))
    for wrong in (255 * images[0], np.full_like(images[0], np.nan), images[0] - 2):
        with pytest.raises(ValueError, match=r"floating pixels must be in \[-1, 1\], got"):
            clippo.encode_image(kind([wrong, images[1]]))


def test_one_side_alone(clippo, photographs):
    """The embeddings do not depend on what is embedded beside them."""
    images = torch.from_numpy(np.stack([clippo.preprocess_image(image) for image in photographs]))
    texts = clippo.tokenize(TEXTS)
    both = clippo(images, texts)
    for alone, expected in ((clippo(images), (both[0], None)), (clippo(texts=texts), (None, both[1]))):
        for z, expected_z in zip(alone, expected, strict=True):
            assert (z is None) == (expected_z is None)
            if z is not None:
                torch.testing.assert_close(z, expected_z, atol=1e-6, rtol=1e-5)
    assert clippo() == (None, None)
    raw = clippo(images, texts, normalize=False)
    torch.testing.assert_close(torch.nn.functional.normalize(raw[0], dim=1), both[0])


@pytest.mark.slow
def test_an_encoder_can_be_compiled(clippo, photographs):
    expected = clippo.encode_image(photographs)
    compiled = torch.compile(clippo.encode_image, backend="aot_eager")
    torch.testing.assert_close(compiled(photographs), expected)
    # Nothing is left behind that keeps other functions from being compiled.
    assert torch.compile(lambda x: x + 1, backend="aot_eager")(torch.ones(1)) == 2
