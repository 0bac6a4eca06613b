"""The FLOPs that PyTorch's counter sees in the operators are those of plain PyTorch."""

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import clippo_kernels
from clippo_kernels import register_flop_formulas
from clippo_kernels.attention import reference as attention_reference
from clippo_kernels.contrastive import reference as contrastive_reference
from clippo_kernels.patch_embed import eager as patch_embed_eager

register_flop_formulas()
ROOT = Path(clippo_kernels.__file__).parents[1]
OPS = torch.ops.clippo_kernels
# Lengths of 3, 0, 2 and 6; not 1, because einsum multiplies by a single key without a matrix product.
CU_SEQLENS = torch.tensor([0, 3, 3, 5, 11], dtype=torch.int32)
SQUARES = 3 * 3 + 2 * 2 + 6 * 6


def flops(f, *args):
    with FlopCounterMode(display=False) as counter:
        out = f(*args)
    return counter.get_total_flops(), out


def plain(f, *inputs):
    """FLOPs of the forward and of the backward of a function of plain PyTorch."""
    inputs = [x.requires_grad_() for x in inputs]
    forward, out = flops(f, *inputs)
    return forward, flops(out.backward, torch.ones_like(out))[0]


def meta(*shape):
    return torch.empty(*shape, device="meta")  # the operators only see the shapes, and run no kernel


def test_attention():
    shapes = [(2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 4)]
    q, k, v = (meta(*shape) for shape in shapes)
    forward, (out, lse) = flops(OPS.attention_forward, q, k, v, 1.0)
    backward, _ = flops(OPS.attention_backward, out, q, k, v, out, lse, 1.0)
    inputs = [torch.ones(shape) for shape in shapes]
    plain_forward, plain_backward = plain(attention_reference.flash_attention, *inputs)
    assert forward == plain_forward > 0
    # The operator keeps no probabilities and computes the logits again, half of its forward.
    assert backward == plain_backward + forward / 2


@pytest.mark.parametrize("cu_seqlens", [None, CU_SEQLENS], ids=["packed", "varlen"])
def test_packed_attention(cu_seqlens):
    shape = (2, 7, 3, 5, 4) if cu_seqlens is None else (11, 3, 5, 4)
    qkv = meta(*shape)
    forward, (out, lse) = flops(OPS.attention_packed_forward, qkv, cu_seqlens, 7, 0, 0, 1.0)
    backward, _ = flops(OPS.attention_packed_backward, out, qkv, out, lse, cu_seqlens, 7, 0, 0, 1.0)

    def attend(qkv):
        if cu_seqlens is None:
            return attention_reference.flash_attention_qkvpacked(qkv)
        return attention_reference.flash_attention_varlen(qkv, cu_seqlens)

    plain_forward, plain_backward = plain(attend, torch.ones(shape))
    assert forward == plain_forward > 0
    assert backward == plain_backward + forward / 2


def test_sequences_whose_lengths_have_no_values_count_as_the_longest():
    qkv, cu_seqlens = meta(11, 3, 5, 4), CU_SEQLENS.to("meta")
    forward, _ = flops(OPS.attention_packed_forward, qkv, cu_seqlens, 7, 0, 0, 1.0)
    assert forward == 4 * (4 * 7 * 7) * (5 * 4)
    forward, _ = flops(OPS.attention_packed_forward, qkv, cu_seqlens, 3, 1, 7, 1.0)
    assert forward == 4 * (7 * 7 + 3 * 3 * 3) * (5 * 4)


def test_varlen_attention_counts_as_pytorchs_own():
    aten = torch.ops.aten
    q = meta(11, 5, 4)
    theirs = flop_registry[aten._flash_attention_forward](q, q, q, CU_SEQLENS, CU_SEQLENS, 7, 7)
    theirs_backward = flop_registry[aten._flash_attention_backward](
        q, q, q, q, q, None, CU_SEQLENS, CU_SEQLENS, 7, 7
    )
    qkv = meta(11, 3, 5, 4)
    forward, (out, lse) = flops(OPS.attention_packed_forward, qkv, CU_SEQLENS, 7, 0, 0, 1.0)
    backward, _ = flops(OPS.attention_packed_backward, out, qkv, out, lse, CU_SEQLENS, 7, 0, 0, 1.0)
    assert forward == theirs == 4 * SQUARES * 20
    assert backward == theirs_backward == 10 * SQUARES * 20


@pytest.mark.parametrize("cu_seqlens", [None, CU_SEQLENS], ids=["pool", "varlen"])
def test_attention_pool(cu_seqlens):
    q_shape, kv_shape = ((2, 5, 4), (2, 7, 2, 5, 4)) if cu_seqlens is None else ((4, 5, 4), (11, 2, 5, 4))
    q, kv = meta(*q_shape), meta(*kv_shape)
    forward, (out, lse) = flops(OPS.attention_pool_forward, q, kv, cu_seqlens, 1.0)
    backward, _ = flops(OPS.attention_pool_backward, out, q, kv, out, lse, cu_seqlens, 1.0)

    def pool(q, kv):
        if cu_seqlens is None:
            return attention_reference.attention_pool(q, kv)
        return attention_reference.attention_pool_varlen(q, kv, cu_seqlens)

    plain_forward, plain_backward = plain(pool, torch.ones(q_shape), torch.ones(kv_shape))
    assert forward == plain_forward > 0
    assert backward == plain_backward + forward / 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("keep_indices", [None, [[0, 1], [1, 3], [1, 0]]], ids=["all", "kept"])
def test_patch_embed(channels, keep_indices):
    keep = None if keep_indices is None else torch.tensor(keep_indices, dtype=torch.int32)
    images, weight = torch.zeros(2, channels, 8, 8, dtype=torch.uint8), torch.ones(6, 3, 4, 4)
    options = (0.5,) * 3, (0.5,) * 3, torch.float32
    plain_forward, plain_backward = plain(
        lambda w: patch_embed_eager.patch_embed(images, w, None, None, keep, *options, torch.float32), weight
    )
    images, weight = images.to("meta"), meta(6, 3, 4, 4)
    arguments = images, weight, None, None, keep, *options, torch.float32
    forward, out = flops(OPS.patch_embed_forward, *arguments)
    backward, _ = flops(OPS.patch_embed_weight_gradient, out, images, weight, meta(6), keep, *options)
    assert forward == plain_forward == 2 * (8 if keep is None else 3) * channels * 16 * 6
    assert backward == plain_backward


@pytest.mark.parametrize("name", ["contrastive_loss", "sigmoid_loss"])
def test_losses(name):
    """On a CPU, too, a loss is one operator, whose products the counter does not see one by one."""
    scalars = [torch.tensor(2.0)] * (1 if name == "contrastive_loss" else 2)
    ours, reference = getattr(clippo_kernels, name), getattr(contrastive_reference, name)
    image, text = torch.randn(2, 6, 4)
    plain_forward, plain_backward = plain(lambda x, y: reference(x, y, *scalars), image, text)
    forward, backward = plain(lambda x, y: ours(x, y, *scalars), image, text)
    assert forward == plain_forward == 2 * 6 * 6 * 4
    assert backward == plain_backward + forward  # which computes the logits again


def test_a_ring_exchange_counts_the_texts_of_all_ranks():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        ring = "triton", dist.group.WORLD.group_name
        positives = 0, None, None, None, None
        image, text, scale = meta(6, 4), meta(6, 4), meta(1)
        forward, (row_lse, column_lse, _) = flops(
            OPS.contrastive_forward, image, text, scale, *positives, *ring
        )
        shifts, dtypes = (row_lse, column_lse), (torch.float32, torch.float32)
        arguments = image, text, scale, None, scale, *shifts, *positives, *ring, *dtypes
        backward, _ = flops(OPS.contrastive_backward, *arguments)
    finally:
        dist.destroy_process_group()
    assert forward == 2 * 6 * 24 * 4
    assert backward == 3 * forward


def test_the_example_of_the_docs_runs(capsys):
    text = (ROOT / "docs" / "kernels.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?FlopCounterMode.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    exec(compile(example, "docs/kernels.md", "exec"), {})  # noqa: S102 - our own documentation
    assert capsys.readouterr().out.strip() == re.search(r"# (\d+), ", example)[1]
