"""MTEB measures a Clippo: the calls that its tasks make, by hand and, where it is installed, by MTEB."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader

from clippo.errors import UserError
from clippo.model import ByteTextConfig, Clippo, ClippoConfig, MtebEncoder, create_model

TEXTS = ["a cat", "two dogs", "", "a cat", "ein Haus"]


@pytest.fixture(scope="module")
def clippo():
    torch.manual_seed(0)
    return create_model("clippo-mu16", image_size=64, embed_dim=8)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    sides = [(50, 40), (20, 90), (64, 64), (33, 35), (70, 20)]
    return [Image.fromarray(rng.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in sides]


def batches(size: int = 2, **columns: list) -> DataLoader:
    """A loader as MTEB makes it: a dictionary of lists for each batch, with columns beside those to embed."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    names = [*columns, "id"]
    rows = [{**row, "id": str(number)} for number, row in enumerate(rows)]
    return DataLoader(
        rows, size, collate_fn=lambda part: {name: [row[name] for row in part] for name in names}
    )


def encode(encoder: MtebEncoder, loader: DataLoader) -> np.ndarray:
    return encoder.encode(
        loader, task_metadata=SimpleNamespace(name="Task"), hf_split="test", hf_subset="default",
        prompt_type=None, batch_size=2, show_progress_bar=False,
    )  # fmt: skip


def test_texts_and_images_are_embedded_in_their_order(clippo, images):
    encoder = MtebEncoder(clippo)
    for found, expected in (
        (encode(encoder, batches(text=TEXTS)), clippo.encode_text(TEXTS)),
        (encode(encoder, batches(image=images)), clippo.encode_image(images)),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert encode(encoder, []).shape == (0, 8)


def test_a_text_is_drawn_into_its_image_or_added_to_it(clippo, images):
    loader = batches(text=TEXTS, image=images)
    drawn = encode(MtebEncoder(clippo), loader)
    np.testing.assert_allclose(drawn, clippo.encode_image_text(images, TEXTS), atol=1e-6)
    added = encode(MtebEncoder(clippo, fusion="sum"), loader)
    np.testing.assert_allclose(added, clippo.encode_image(images) + clippo.encode_text(TEXTS), atol=1e-6)
    sizes = {"width": 32, "depth": 1, "mlp_dim": 32, "num_heads": 2, "patch_size": 16, "image_size": 64}
    reads_bytes = Clippo(ClippoConfig(**sizes, embed_dim=8, text=ByteTextConfig()))
    assert encode(MtebEncoder(reads_bytes, fusion="sum"), loader).shape == (5, 8)


def test_similarities_are_cosines_of_arrays_and_tensors():
    encoder = object.__new__(MtebEncoder)  # they do not depend on the model
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 8)), rng.normal(size=(4, 8)).astype(np.float32)
    cosines = (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    for first, second in ((a, b), (torch.tensor(a), torch.tensor(b)), (a, torch.tensor(b))):
        np.testing.assert_allclose(encoder.similarity(first, second), cosines, atol=1e-6)
        np.testing.assert_allclose(encoder.similarity_pairwise(first, second), cosines.diagonal(), atol=1e-6)
    np.testing.assert_allclose(encoder.similarity(a[0], b), cosines[:1], atol=1e-6)
    assert not encoder.similarity(np.zeros(8), b).isnan().any()


def test_zero_shot_classification_as_mteb_does_it(clippo, images):
    """Candidate labels are texts, samples are images; the scores are similarities of the two."""
    encoder = MtebEncoder(clippo)
    labels, samples = encode(encoder, batches(text=TEXTS[:2])), encode(encoder, batches(image=images))
    found = torch.tensor(encoder.similarity(samples, labels).numpy()).argmax(1)
    assert torch.equal(found, clippo.similarity(images, TEXTS[:2]).argmax(1))


def test_pairs_of_images_and_texts_as_mteb_does_it(clippo, images):
    """It puts the rows of a sample on an axis of their own, one image at a time."""
    encoder = MtebEncoder(clippo)
    z_texts = F.normalize(torch.tensor(encode(encoder, batches(text=TEXTS[:4]))), dim=-1).view(2, 2, -1)
    z_images = F.normalize(torch.tensor(encode(encoder, batches(1, image=images[:2]))), dim=-1).view(2, 1, -1)
    scores = torch.stack([z_image @ z_text.T for z_image, z_text in zip(z_images, z_texts, strict=True)])
    expected = clippo.similarity(images[:2], TEXTS[:4])
    torch.testing.assert_close(scores[:, 0], torch.stack([expected[0, :2], expected[1, 2:]]))


def test_what_mteb_writes_down_names_the_weights(clippo, monkeypatch):
    module = SimpleNamespace(ModelMeta=lambda **fields: SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "mteb", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mteb.models", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", module)
    meta = MtebEncoder(clippo, "somebody/clippo").mteb_model_meta
    assert (meta.name, meta.revision) == ("somebody/clippo", clippo.weights_sha256())
    assert meta.modalities == ["image", "text"]
    assert (meta.embed_dim, meta.max_tokens) == (8, 16)
    assert meta.n_parameters == sum(parameter.numel() for parameter in clippo.parameters())
    other = create_model("clippo-mu16", image_size=64, embed_dim=8)
    assert MtebEncoder(other).mteb_model_meta.revision != meta.revision
    assert meta.experiment_kwargs is None
    assert MtebEncoder(clippo, fusion="sum").mteb_model_meta.experiment_kwargs == {"fusion": "sum"}
    encoder = MtebEncoder(clippo, revision="3000")
    assert encoder.mteb_model_meta.revision == "3000"
    encoder.mteb_model_meta = meta  # as MTEB does after it has loaded a model
    assert encoder.mteb_model_meta is meta


def test_bad_input_is_named(clippo):
    with pytest.raises(UserError, match="model_name must be \"organization/model\", got 'clippo'"):
        MtebEncoder(clippo, "clippo")
    with pytest.raises(UserError, match="fusion must be one of drawn, sum, got 'mean'"):
        MtebEncoder(clippo, fusion="mean")
    with pytest.raises(UserError, match="a batch must have text or image, got audio, id"):
        encode(MtebEncoder(clippo), batches(audio=[1, 2]))


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["drawn", "sum"])
def test_mteb_itself(clippo, fusion):
    tasks = pytest.importorskip("mteb.mocks.mock_tasks", reason="mteb 2.26 or later is not installed")
    import mteb
    from mteb.models.models_protocols import EncoderProtocol

    encoder = MtebEncoder(clippo, fusion=fusion)
    assert isinstance(encoder, EncoderProtocol)
    chosen = [
        tasks.MockBitextMiningTask(), tasks.MockRetrievalTask(), tasks.MockZeroShotClassificationTask(),
        tasks.MockImageTextPairClassificationTask(), tasks.MockMultiChoiceTask(),
    ]  # fmt: skip
    results = mteb.evaluate(encoder, chosen, cache=None, show_progress_bar=False)
    assert results.model_name == "clippo/clippo"
    scores = [result.scores["test"][0]["main_score"] for result in results.task_results]
    assert len(scores) == len(chosen)
    assert all(0 <= score <= 1 for score in scores)
