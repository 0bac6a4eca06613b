"""Code written for open_clip and CLIP_benchmark runs on a Clippo."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clippo.model import create_model
from clippo.model.checkpoints.open_clip import open_clip_trio


@pytest.fixture(scope="module")
def clippo():
    torch.manual_seed(0)
    return create_model("clippo-mu16", image_size=64, embed_dim=8)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)) for _ in range(3)]


def test_the_readme_of_open_clip(clippo, pictures):
    model, preprocess, tokenizer = open_clip_trio(clippo)
    model.eval()
    image = preprocess(pictures[0]).unsqueeze(0)
    text = tokenizer(["a diagram", "a dog", "a cat"])
    with torch.no_grad():
        image_features = model.encode_image(image)
        text_features = model.encode_text(text)
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
        probabilities = (100.0 * image_features @ text_features.T).softmax(dim=-1)
    expected = (100 * clippo.similarity(pictures[:1], ["a diagram", "a dog", "a cat"])).softmax(dim=-1)
    torch.testing.assert_close(probabilities, expected, atol=1e-4, rtol=1e-4)


def test_the_parts_can_be_pickled(clippo, pictures):
    model, preprocess, tokenizer = open_clip_trio(clippo)
    parts = pickle.dumps((model, preprocess, tokenizer))
    model_2, preprocess_2, tokenizer_2 = pickle.loads(parts)  # noqa: S301 - written in the line above
    assert torch.equal(preprocess(pictures[0]), preprocess_2(pictures[0]))
    text = tokenizer("a cat")
    assert torch.equal(text, tokenizer_2("a cat"))
    assert torch.equal(model.encode_text(text), model_2.encode_text(text))


def test_zero_shot_as_clip_benchmark_does_it(clippo, pictures):
    """Its contract: a transform for a DataLoader, a tokenizer with `.to()`, encoders that leave lengths."""
    model, transform, tokenizer = open_clip_trio(clippo)
    dataset = [(transform(picture), label) for label, picture in enumerate(pictures)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    device = torch.device("cpu")
    with torch.no_grad():
        weights = []
        for name in ("cat", "dog", "house"):
            texts = tokenizer([f"a photo of a {name}", f"a picture of a {name}"]).to(device)
            embedding = F.normalize(model.encode_text(texts), dim=-1).mean(dim=0)
            weights.append(embedding / embedding.norm())
        classifier = torch.stack(weights, dim=1).to(device)
        logits = torch.cat(
            [
                100 * F.normalize(model.encode_image(images.to(device)), dim=-1) @ classifier
                for images, _ in loader
            ]
        )
    assert logits.shape == (3, 3)
    assert logits.isfinite().all()


def test_fine_tuning(clippo, pictures):
    model, preprocess, tokenizer = open_clip_trio(clippo)
    images = torch.stack([preprocess(picture) for picture in pictures])
    texts = tokenizer(["a", "b", "c"])
    z_images, z_texts, scale = model(images, texts)
    assert torch.equal(scale, model.logit_scale.exp())
    torch.testing.assert_close(z_images, model.encode_image(images, normalize=True))
    torch.testing.assert_close(z_texts, model.encode_text(texts, normalize=True))
    (scale * z_images @ z_texts.T).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad(set_to_none=True)
    assert tokenizer("one string").shape == (1, 64, 64)


def test_zero_shot_as_open_clip_does_it(clippo, pictures):
    """Its training code asks for one side at a time, and `visual` for the preprocessing."""
    model, preprocess, tokenizer = open_clip_trio(clippo)
    images, texts = torch.stack(list(map(preprocess, pictures))), tokenizer(["a cat", "a dog"])
    z_images, nothing, scale = model(image=images)
    assert nothing is None
    torch.testing.assert_close(z_images, model.encode_image(images, normalize=True))
    nothing, z_texts, _ = model(text=texts)
    assert nothing is None
    torch.testing.assert_close(z_texts, model.encode_text(texts, normalize=True))
    torch.testing.assert_close(scale, clippo.logit_scale.exp())
    assert model.visual.image_size == (64, 64)
    assert model.visual.image_mean == model.visual.image_std == (0.5, 0.5, 0.5)
    assert torch.equal(model.visual(images), model.encode_image(images))
