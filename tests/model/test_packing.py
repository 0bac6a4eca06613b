"""Packed sequences: the embeddings of dense ones, and for listed patches those of these patches alone."""

import dataclasses

import numpy as np
import pytest
import torch

import clippo_kernels.attention as attention_module
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo.model.packing import (
    PackedPatches,
    VarlenInfo,
    equal_lengths,
    join,
    keep_where,
    patch_dropout,
)
from clippo.model.text_input import inked_mask
from clippo.renderer import AlignedRenderer, ParagraphRenderer, UnifontRenderer
from clippo_kernels import cached_contrastive_step, contrastive_loss
from clippo_kernels.dispatch import BACKEND_VARIABLE

SMALL = ClippoConfig(width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=64, embed_dim=16)
TEXTS = ["a", "strawberry ice cream with cream", "", "犬の写真", "x" * 400]


@pytest.fixture
def clippo() -> Clippo:
    torch.manual_seed(0)
    return Clippo(SMALL)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (len(TEXTS), 64, 64, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def texts() -> torch.Tensor:
    return torch.from_numpy(UnifontRenderer(64)(TEXTS))


def every_patch(batch: int) -> torch.Tensor:
    return torch.ones(batch, SMALL.num_patches, dtype=torch.bool)


@pytest.fixture(params=["eager", pytest.param("triton", marks=pytest.mark.slow)])
def backend(request, monkeypatch):
    if request.param == "triton" and torch.cuda.is_available():
        pytest.skip("the interpreter is used where there is no GPU")
    monkeypatch.setenv(BACKEND_VARIABLE, request.param)
    return request.param


def embeddings_and_gradients(clippo, *arguments):
    weights = torch.randn(2, len(TEXTS), SMALL.embed_dim, generator=torch.Generator().manual_seed(2))
    z = torch.stack(clippo(*arguments))
    return z, torch.autograd.grad((z * weights).sum(), list(clippo.tower.parameters()))


def assert_same(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=1e-4)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("packed", ["both", "texts"])
def test_with_every_patch_listed_packed_is_dense(clippo, images, texts, packed):
    everything = every_patch(len(TEXTS))
    listed = (keep_where(everything) if packed == "both" else None, everything)
    ours = embeddings_and_gradients(clippo, images, texts, *listed)
    assert_same(ours, embeddings_and_gradients(clippo, images, texts))


@pytest.mark.usefixtures("backend")
def test_listed_patches_are_all_that_is_seen(clippo, images, texts):
    """Each text by itself, in a dense tower without its blank patches, gives the embedding of the batch."""
    inked = Clippo(dataclasses.replace(SMALL, text=RenderedTextConfig(tokens="inked")))
    inked.load_state_dict(clippo.state_dict())
    z_images, z_texts = inked(images, texts)
    torch.testing.assert_close(z_images, clippo(images, texts)[0], atol=1e-5, rtol=1e-5)
    is_inked = inked_mask(texts, 16, 127)
    for text, kept, z in zip(texts, is_inked, z_texts, strict=True):
        tokens = clippo.tower.patch_embed(text[None])[:, kept]
        alone = torch.nn.functional.normalize(clippo.tower.encoder(tokens), dim=-1)
        torch.testing.assert_close(alone[0], z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inked.encode_text(texts), z_texts, atol=1e-5, rtol=1e-5)
    blank = texts.clone()
    blank[1, 48:, 48:] = texts[0, 48:, 48:]  # nothing there in either
    torch.testing.assert_close(inked.encode_text(blank), inked.encode_text(texts))


@pytest.mark.parametrize("make", [UnifontRenderer, ParagraphRenderer])
@pytest.mark.parametrize("background", [127, 255])
def test_ink_is_what_the_report_says(make, background):
    pixels, report = make(64, background=background).render(TEXTS)
    found = inked_mask(torch.from_numpy(pixels), 16, background)
    expected = report.inked.reshape(len(TEXTS), -1)
    expected[2, 0] = True  # the blank text keeps a patch, for every image has an embedding
    np.testing.assert_array_equal(found.numpy(), expected)


def test_ink_in_every_layout(texts):
    expected = inked_mask(texts, 16, 127)
    for same in (
        texts[..., None].expand(-1, -1, -1, 3),
        texts[:, None],
        texts.float() / 127.5 - 1,
    ):
        assert torch.equal(inked_mask(same, 16, 127), expected)


def test_dropped_patches(clippo, images, texts):
    torch.manual_seed(0)
    kept = patch_dropout(50, 16, 0.75)
    assert kept.varlen.longest == 4
    assert kept.varlen.cu_seqlens.tolist() == list(range(0, 201, 4))
    rows = kept.keep_indices.view(50, 4, 2)
    assert torch.equal(rows[..., 0], torch.arange(50, dtype=torch.int32)[:, None].expand(50, 4))
    assert (rows[:, 1:, 1] > rows[:, :-1, 1]).all()
    assert rows[..., 1].unique().tolist() == list(range(16))
    torch.manual_seed(0)
    assert torch.equal(patch_dropout(50, 16, 0.75).keep_indices, kept.keep_indices)
    assert patch_dropout(3, 16, 0.99).varlen.longest == 1

    few = patch_dropout(len(images), 16, 0.5)
    z_images, z_texts = clippo(images, texts, few)
    torch.testing.assert_close(z_texts, clippo(images, texts)[1], atol=1e-5, rtol=1e-5)
    changed = images.clone()
    dropped = torch.ones(len(images), 16, dtype=torch.bool)
    dropped[few.keep_indices[:, 0].long(), few.keep_indices[:, 1].long()] = False
    is_dropped = dropped.view(-1, 4, 1, 4, 1).expand(-1, 4, 16, 4, 16).reshape(-1, 64, 64)
    changed[is_dropped] = 0
    assert torch.equal(clippo(changed, texts, few)[0], z_images)


def test_an_empty_batch(clippo):
    inked = Clippo(dataclasses.replace(SMALL, text=RenderedTextConfig(tokens="inked")))
    for model in (clippo, inked):
        z_images, z_texts = model(
            torch.empty(0, 64, 64, 3, dtype=torch.uint8), torch.empty(0, 64, 64, dtype=torch.uint8)
        )
        assert z_images.shape == z_texts.shape == (0, 16)


@pytest.mark.parametrize("packed", [False, True])
def test_recomputed_blocks_give_the_same_gradients(clippo, images, texts, packed):
    listed = (None, every_patch(len(TEXTS))) if packed else ()
    plain = embeddings_and_gradients(clippo, images, texts, *listed)
    clippo.tower.encoder.grad_checkpointing = True
    calls = []
    hook = clippo.tower.encoder.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    assert_same(embeddings_and_gradients(clippo, images, texts, *listed), plain)
    hook.remove()
    assert len(calls) == 2


@pytest.mark.long
@pytest.mark.parametrize("mode", ["all", "inked"])
@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_graph_breaks(clippo, images, texts, mode, training):
    arguments = [(images, texts), (images[:3], texts[1:4])]
    if mode == "inked":
        arguments = [(i, t, None, inked_mask(t, 16, 127)) for i, t in arguments]
    compiled = torch.compile(clippo, fullgraph=True, backend="aot_eager")
    for batch in arguments:
        with torch.set_grad_enabled(training):
            ours, eager = compiled(*batch), clippo(*batch)
        for one, other in zip(ours, eager, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        if training:
            gradients = [
                torch.autograd.grad(z[0].sum() + 2 * z[1][0, 0], clippo.tower.patch_embed.weight)[0]
                for z in (ours, eager)
            ]
            torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


# Patches that come without their images


@pytest.fixture
def aligned() -> Clippo:
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, text=RenderedTextConfig(tokens="inked"))
    return Clippo(config, AlignedRenderer(64))


def gradients(
    clippo: Clippo, images: torch.Tensor, texts: torch.Tensor | PackedPatches
) -> list[torch.Tensor]:
    clippo.zero_grad()
    z_images, z_texts = clippo(images, texts)
    (z_images @ z_texts.T).square().sum().backward()
    return [parameter.grad for parameter in clippo.parameters() if parameter.grad is not None]


def test_packed_patches_embed_as_the_images_they_are_of(aligned, images, backend):
    """To the last bit; and in PyTorch, so are the gradients. Triton sums them in another order."""
    packed, drawn = aligned.text_input.tokenize(TEXTS), aligned.tokenize(TEXTS)
    assert isinstance(packed, PackedPatches)
    assert isinstance(drawn, torch.Tensor)
    assert torch.equal(aligned(images, packed)[1], aligned(images, drawn)[1])
    found, expected = gradients(aligned, images, packed), gradients(aligned, images, drawn)
    assert len(found) == len(expected) > 10
    exact = {"atol": 0, "rtol": 0} if backend == "eager" else {"atol": 1e-4, "rtol": 1e-4}
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **exact)


@pytest.mark.parametrize("packed", [True, False], ids=["packed patches", "images of texts"])
def test_offsets_are_read_once_in_inference_mode(aligned, images, packed, monkeypatch):
    """PyTorch does not count the changes of tensors that were made there."""
    reads = []
    monkeypatch.setattr(attention_module, "check_offsets", lambda *args: reads.append(args))
    texts = aligned.text_input.tokenize(TEXTS) if packed else aligned.tokenize(TEXTS)
    for forwards in (1, 2):
        with torch.inference_mode():
            aligned(images, texts)
        assert len(reads) == forwards
    with torch.inference_mode():
        aligned.embed_texts(texts)
    assert len(reads) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_strings_are_encoded_from_packed_patches(aligned, batch_size):
    expected = aligned.encode_text(aligned.tokenize(TEXTS))
    torch.testing.assert_close(aligned.encode_text(TEXTS, batch_size=batch_size), expected)
    packed = aligned.text_input.tokenize(TEXTS)
    torch.testing.assert_close(aligned.encode_text(packed, batch_size=batch_size), expected)
    assert aligned.encode_text([]).shape == (0, 16)
    assert aligned.encode_text(aligned.text_input.tokenize([])).shape == (0, 16)


def test_a_tower_of_all_patches_takes_images(aligned):
    assert isinstance(Clippo(SMALL, AlignedRenderer(64)).text_input.tokenize(TEXTS), torch.Tensor)


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_packed_patches_can_be_split(aligned, size):
    packed = aligned.text_input.tokenize(TEXTS)
    parts = packed.split(size)
    assert [len(part) for part in parts] == [len(TEXTS[i : i + size]) for i in range(0, len(TEXTS), size)]
    for i, part in enumerate(parts):
        expected = aligned.text_input.tokenize(TEXTS[i * size : (i + 1) * size])
        assert torch.equal(part.pixels, expected.pixels)
        assert torch.equal(part.positions, expected.positions)
        assert torch.equal(part.varlen.cu_seqlens, expected.varlen.cu_seqlens)
        assert part.varlen.longest >= expected.varlen.longest
    assert len(packed[5:]) == len(packed[3:2]) == 0
    with pytest.raises(IndexError, match="rows of packed patches must be consecutive"):
        packed[::2]


def test_gradients_of_micro_batches_of_packed_patches(aligned, images):
    def loss(z_images: torch.Tensor, z_texts: torch.Tensor) -> torch.Tensor:
        return contrastive_loss(z_images, z_texts, aligned.logit_scale.exp())

    packed, found = aligned.text_input.tokenize(TEXTS), []
    for chunk_size in (2, len(TEXTS)):
        aligned.zero_grad()
        cached_contrastive_step(aligned, images, packed, loss, chunk_size=chunk_size)
        found.append([parameter.grad.clone() for parameter in aligned.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_renderer_for_other_patches_is_refused(aligned):
    message = "renderer must have the patch_size of the model, 16, not 8"
    with pytest.raises(ValueError, match=message):
        Clippo(SMALL, AlignedRenderer(64, patch_size=8))
    with pytest.raises(ValueError, match=message):
        aligned.text_input.renderer = AlignedRenderer(64, patch_size=8)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((3, 4), [2, 1], (2, (3, 4))),
        ((3, 4), (2, 5), (5, (3, 4))),
        ((3, 4), (2, 4), (0, (5, 4))),
        ([2, 1], (3, 4), (4, (0, 0))),
    ],
)
def test_leading_sequences_of_one_length_stay_known(first, second, expected):
    """Pairs are a number and a length of equal sequences, lists the lengths of different ones."""
    cpu = torch.device("cpu")

    def varlen(of):
        if isinstance(of, tuple):
            return equal_lengths(*of, cpu)
        cu_seqlens = torch.tensor([0, *of]).cumsum(0).int()
        return VarlenInfo(cu_seqlens, max(of))

    joined = join(varlen(first), varlen(second))
    assert (joined.max_seqlen, joined.dense) == expected
    assert joined.longest == max(varlen(first).longest, varlen(second).longest)
    lengths = [part for of in (first, second) for part in ([of[1]] * of[0] if isinstance(of, tuple) else of)]
    assert joined.cu_seqlens.diff().tolist() == lengths
