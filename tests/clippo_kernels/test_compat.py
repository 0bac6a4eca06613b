"""The names of other libraries, each in a small ViT, against the same ViT in plain PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clippo_kernels import compat


class Vit(nn.Module):
    """Two blocks of attention on 8 x 8 patches, one token a class; `attend` takes qkv (B, N, 3, H, D)."""

    def __init__(self, attend):
        super().__init__()
        self.attend = attend
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.qkv, self.proj = (nn.ModuleList(nn.Linear(32, n) for _ in range(2)) for n in (96, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, images):
        x = self.patch(images).flatten(2).mT
        for qkv, proj in zip(self.qkv, self.proj, strict=True):
            mixed = self.attend(qkv(F.layer_norm(x, (32,))).unflatten(-1, (3, 2, 16)))
            x = x + proj(mixed.flatten(-2))
        return self.head(x.mean(1))


def plain(qkv, is_causal=False):
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal).transpose(1, 2)


def varlen(qkv):
    B, N = qkv.shape[:2]
    cu_seqlens = torch.arange(0, (B + 1) * N, N, dtype=torch.int32, device=qkv.device)
    return compat.flash_attn_varlen_qkvpacked_func(qkv.flatten(0, 1), cu_seqlens, N).unflatten(0, (B, N))


def hugging_face(qkv):
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    out, probabilities = compat.attention_interface(
        nn.Module(), q, k, v, None, scaling=16**-0.5, use_cache=False
    )
    assert probabilities is None
    return out


ATTENTIONS = {
    "flash_attn_func": lambda qkv: compat.flash_attn_func(*qkv.unbind(2)),
    "flash_attn_qkvpacked_func": compat.flash_attn_qkvpacked_func,
    "flash_attn_varlen_qkvpacked_func": varlen,
    "attention_interface": hugging_face,
}


@pytest.mark.parametrize("attend", ATTENTIONS.values(), ids=ATTENTIONS)
def test_a_vit_computes_the_same(attend, backend):
    torch.manual_seed(0)
    expected_vit, images = Vit(plain), torch.rand(2, 3, 24, 24)
    vit = Vit(attend)
    vit.load_state_dict(expected_vit.state_dict())
    expected, logits = expected_vit(images), vit(images)
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(vit.parameters(), expected_vit.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


class TimmBlock(nn.Module):
    """The attention of timm's blocks, in plain PyTorch, with timm's names of the weights."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


def test_weights_of_timm_load(backend):
    theirs, ours = TimmBlock(24, 3), compat.Attention(24, 3, qkv_bias=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(ours(x), theirs(x))
    assert set(compat.Attention(24, 3, proj_bias=False).state_dict()) == {"qkv.weight", "proj.weight"}


def test_clip_loss_is_that_of_open_clip(backend):
    image, text = (F.normalize(torch.randn(7, 8)).requires_grad_() for _ in range(2))
    logits, labels = 9.0 * image @ text.T + 0.5, torch.arange(7)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    # As create_loss and the training loop of open_clip call it.
    loss = compat.ClipLoss(
        local_loss=False, gather_with_grad=False, cache_labels=True, rank=0, world_size=1, use_horovod=False
    )
    bias = torch.full((1,), 0.5, requires_grad=True)
    model_out = {"image_features": image, "text_features": text, "logit_scale": torch.tensor(9.0)}
    found = loss(**model_out, logit_bias=bias, output_dict=True)
    assert list(found) == ["contrastive_loss"]
    torch.testing.assert_close(found["contrastive_loss"], expected)
    torch.testing.assert_close(loss(**model_out), expected)
    *gradients, dbias = torch.autograd.grad(found["contrastive_loss"], (image, text, bias))
    torch.testing.assert_close(gradients, list(torch.autograd.grad(expected, (image, text))))
    assert torch.equal(dbias, torch.zeros(1))


QKV = torch.zeros(1, 2, 3, 2, 8)
BNHD = QKV[:, :, 0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: compat.flash_attn_func(BNHD, BNHD, BNHD, 0.1), "dropout_p"),
        (lambda: compat.flash_attn_func(BNHD, BNHD, BNHD, causal=True), "causal"),
        (lambda: compat.flash_attn_qkvpacked_func(QKV, window_size=(8, 8)), "window_size"),
        (lambda: compat.flash_attn_qkvpacked_func(QKV, softcap=30.0), "softcap"),
        (lambda: compat.flash_attn_qkvpacked_func(QKV, alibi_slopes=torch.ones(2)), "alibi_slopes"),
        (
            lambda: compat.flash_attn_varlen_qkvpacked_func(
                QKV[0], torch.tensor([0, 2]).int(), 2, return_attn_probs=True
            ),
            "return_attn_probs",
        ),
        (lambda: compat.attention_interface(nn.Module(), BNHD, BNHD, BNHD, torch.ones(1)), "attention_mask"),
        (lambda: compat.attention_interface(nn.Module(), BNHD, BNHD, BNHD, None, dropout=0.1), "dropout"),
        (
            lambda: compat.attention_interface(nn.Module(), BNHD, BNHD, BNHD, None, is_causal=True),
            "is_causal",
        ),
        (
            lambda: compat.attention_interface(nn.Module(), BNHD, BNHD[:, :1], BNHD, None),
            "num_key_value_heads",
        ),
        (lambda: compat.Attention(8, 2, attn_drop=0.1), "attn_drop"),
        (lambda: compat.Attention(8, 2)(torch.zeros(1, 2, 8), torch.ones(1)), "attn_mask"),
        (lambda: compat.ClipLoss(use_horovod=True), "use_horovod"),
        (lambda: compat.ClipLoss(world_size=2), "gather_with_grad"),
    ],
)
def test_what_the_ops_do_not_compute_is_refused(call, name):
    with pytest.raises(NotImplementedError, match=f"^{name} must be "):
        call()


def test_clip_loss_of_ranks_that_there_are_not():
    with pytest.raises(ValueError, match="world_size must be 1, or 1 as in the default process group, got 2"):
        compat.ClipLoss(gather_with_grad=True, rank=1, world_size=2)


def test_heads_divide_the_channels():
    with pytest.raises(ValueError, match="num_heads must divide dim = 8, got 3"):
        compat.Attention(8, 3)
