"""Code written for open_clip and CLIP_benchmark runs on a Clippo."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clippo.model import (
    ByteTextConfig,
    Clippo,
    create_model,
    load_for_clip_benchmark,
    open_clip_trio,
    save_big_vision,
)


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


def test_clip_benchmark(clippo, pictures, tmp_path):
    """It calls a loader, a transform, a tokenizer, and both encoders under autocast."""
    clippo.save_pretrained(tmp_path)
    arguments = {"model_name": "mine", "pretrained": str(tmp_path), "cache_dir": None, "device": "cpu"}
    model, transform, tokenizer = load_for_clip_benchmark(**arguments)
    model.eval()
    names, prompts = ("cat", "dog", "house"), ("a photo of a {c}", "a picture of a {c}")
    dataset = [(transform(picture), label) for label, picture in enumerate(pictures)]
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=2))

    def features(encoder, inputs):
        with torch.no_grad(), torch.autocast("cpu", enabled=True):
            return F.normalize(encoder(inputs.to("cpu")), dim=-1)

    # Zero-shot classification: a text at a time, lengths of one before and after the mean.
    means = [
        features(model.encode_text, tokenizer([p.format(c=name) for p in prompts])).mean(0) for name in names
    ]
    classifier = torch.stack([mean / mean.norm() for mean in means], dim=1)
    z_images = torch.cat([features(model.encode_image, images) for images, _ in batches])
    # Retrieval: the captions of a batch together. The linear probe takes the features of the images alone.
    z_texts = features(model.encode_text, tokenizer([p.format(c=name) for name in names for p in prompts]))
    expected = clippo.encode_text([p.format(c=name) for name in names for p in prompts])
    tolerance = {"atol": 0.02, "rtol": 0}  # of bfloat16
    torch.testing.assert_close(z_images.float(), clippo.encode_image(pictures), **tolerance)
    torch.testing.assert_close(z_texts.float(), expected, **tolerance)
    torch.testing.assert_close(
        (z_images @ classifier).float(),
        clippo.encode_image(pictures) @ F.normalize(expected.view(3, 2, -1).mean(1), dim=-1).T,
        **tolerance,
    )


def test_a_file_of_big_vision_is_loaded_for_clip_benchmark(clippo, tmp_path):
    published = create_model("clippo-mu16", image_size=32)
    save_big_vision(published, tmp_path / "clippo.npz")
    model, _, _ = load_for_clip_benchmark("mine", str(tmp_path / "clippo.npz"))
    assert model.clippo.weights_sha256() == published.weights_sha256() != clippo.weights_sha256()


def test_clip_benchmark_itself(clippo, pictures):
    reason = "clip_benchmark 1.6 or later is not installed"
    classification = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification", reason=reason)
    retrieval = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval", reason=reason)
    model, transform, tokenizer = open_clip_trio(clippo)
    images = torch.stack([transform(picture) for picture in pictures])
    templates = ["a photo of a {c}", "a {c}"]
    classifier = classification.zero_shot_classifier(model, tokenizer, ["cat", "dog"], templates, "cpu")
    loader = [(images, torch.tensor([0, 1, 0]))]
    logits, _ = classification.run_classification(model, classifier, loader, "cpu")
    assert logits.shape == (3, 2)
    assert logits.isfinite().all()
    texts = [["a cat", "a dog"], ["a house"], ["a tree"]]
    found = retrieval.evaluate(model, [(images, texts)], tokenizer, "cpu", recall_k_list=[3])
    assert found["image_retrieval_recall@3"] == 1.0


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


def test_open_clip_takes_one_side_at_a_time(clippo, pictures):
    """Its classifier is built with `encode_text`, or the model called with texts, and applied by a call."""
    model, preprocess, tokenizer = open_clip_trio(clippo)
    images, texts = torch.stack(list(map(preprocess, pictures))), tokenizer(["a cat", "a dog"])
    z_images, nothing, scale = model(image=images)
    assert nothing is None
    torch.testing.assert_close(z_images, clippo.encode_image(pictures))
    nothing, z_texts, _ = model(text=texts)
    assert nothing is None
    torch.testing.assert_close(z_texts, clippo.encode_text(["a cat", "a dog"]))
    torch.testing.assert_close(z_texts, model.encode_text(texts, normalize=True))
    torch.testing.assert_close(scale, clippo.logit_scale.exp())
    assert model.context_length == 16
    assert model.visual.image_size == (64, 64)
    assert model.visual.image_mean == model.visual.image_std == (0.5, 0.5, 0.5)
    assert torch.equal(model.visual(images), model.encode_image(images))


def test_open_clip_trains_with_named_outputs(clippo, pictures):
    model, preprocess, tokenizer = open_clip_trio(clippo, output_dict=True)
    images, texts = torch.stack(list(map(preprocess, pictures))), tokenizer(["a", "b", "c"])

    def loss(image_features, text_features, logit_scale, logit_bias=None, output_dict=False):
        logits = logit_scale * image_features @ text_features.T
        return {"contrastive_loss": F.cross_entropy(logits, torch.arange(3))}

    sum(loss(**model(images, texts), output_dict=True).values()).backward()
    assert model.logit_scale.grad is not None
    model.zero_grad(set_to_none=True)
    named = model(image=images)
    assert named["text_features"] is None
    torch.testing.assert_close(named["image_features"], clippo.encode_image(pictures))


def test_open_clip_itself(clippo, pictures):
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch, with torchvision, is not installed")
    model, preprocess, tokenizer = open_clip_trio(clippo)
    templates = (lambda name: f"a photo of a {name}", lambda name: f"a {name}")
    classifier = open_clip.build_zero_shot_classifier(model, tokenizer, ["cat", "dog", "house"], templates)
    z_images = model(image=torch.stack(list(map(preprocess, pictures))))[0]
    assert (z_images @ classifier).shape == (3, 3)


def test_the_context_of_a_model_that_reads_bytes(clippo):
    config = replace(clippo.config, text=ByteTextConfig(max_bytes=48))
    assert open_clip_trio(Clippo(config))[0].context_length == 48
