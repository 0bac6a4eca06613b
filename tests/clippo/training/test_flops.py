"""The counts are those of PyTorch's own counter, to the last FLOP."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clippo.model import ByteTextConfig, Clippo, ClippoConfig, RenderedTextConfig, layers
from clippo.model.packing import PackedPatches, VarlenInfo, patch_dropout
from clippo.training.flops import forward_flops, peak_flops, peak_of, step_flops
from clippo.training.losses import SigmoidLossConfig, SoftmaxLossConfig
from clippo_kernels import register_flop_formulas
from clippo_kernels.dispatch import BACKEND_VARIABLE

register_flop_formulas()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NONE = torch.zeros(0, dtype=torch.int64)
SIZES = {
    "width": 32, "depth": 2, "mlp_dim": 48, "num_heads": 2,
    "patch_size": 16, "image_size": 48, "embed_dim": 24,
}  # fmt: skip
ALL = ClippoConfig(**SIZES)
INKED = ClippoConfig(**SIZES, text=RenderedTextConfig(tokens="inked"))
BYTES = ClippoConfig(**SIZES, text=ByteTextConfig(max_bytes=12))
TWO_TOWERS = ClippoConfig(**SIZES, text=ByteTextConfig(max_bytes=12), num_towers=2)
CONFIGS = {"all": ALL, "inked": INKED, "bytes": BYTES, "two towers": TWO_TOWERS}


def flops(f, *args, **options):
    with FlopCounterMode(display=False) as counter:
        out = f(*args, **options)
    return counter.get_total_flops(), out


def attention(q, k, v):
    """Attention of (B, N, H, F) by matrix products that PyTorch counts one by one."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2)


def attention_varlen(qkv, cu_seqlens, max_seqlen, dense):
    return torch.cat([attention(*x[None].unbind(2))[0] for x in qkv.split(cu_seqlens.diff().tolist())])


def pool(q, kv):
    return attention(q.expand(len(kv), 1, *q.shape), *kv.unbind(2))[:, 0]


def pool_varlen(q, kv, cu_seqlens, max_seqlen, dense):
    return torch.cat([pool(q, x[None]) for x in kv.split(cu_seqlens.diff().tolist())])


@pytest.fixture
def _plain(monkeypatch):
    """The model computes with plain PyTorch alone."""
    monkeypatch.setenv(BACKEND_VARIABLE, "eager")
    monkeypatch.setattr(layers, "flash_attention_qkvpacked", lambda qkv: attention(*qkv.unbind(2)))
    monkeypatch.setattr(layers, "flash_attention_varlen", attention_varlen)
    monkeypatch.setattr(layers, "attention_pool", pool)
    monkeypatch.setattr(layers, "attention_pool_varlen", pool_varlen)


def model_of(config):
    torch.manual_seed(0)
    return Clippo(config).to(DEVICE)


def images_and_lengths(config, is_dropped):
    images = torch.randint(256, (3, 48, 48, 3), dtype=torch.uint8)
    if not is_dropped:
        return images, None, torch.full((3,), config.num_patches)
    kept = patch_dropout(3, config.num_patches, 0.5)
    return images, kept, kept.varlen.cu_seqlens.diff()


def texts_and_lengths(config):
    if isinstance(config.text, ByteTextConfig):
        texts = torch.from_numpy(Clippo(config).text_input.tokenizer(["a", "a longer one", ""]))
        return texts, torch.tensor([1, 12, 1])
    texts = torch.full((3, 48, 48), 127, dtype=torch.uint8)
    texts[0, :, 20] = texts[1, :16] = 0  # ink in 3 patches each, and in none
    is_inked = config.text.tokens == "inked"
    return texts, torch.tensor([3, 3, 1]) if is_inked else torch.full((3,), config.num_patches)


@pytest.mark.usefixtures("_plain")
@pytest.mark.parametrize("is_dropped", [False, True], ids=["whole", "dropped"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_forward(config, is_dropped):
    images, kept, image_lengths = images_and_lengths(config, is_dropped)
    texts, text_lengths = texts_and_lengths(config)
    model = model_of(config)
    both, _ = flops(model, images, texts, kept)
    assert both == forward_flops(config, image_lengths, text_lengths)
    of_images, _ = flops(model, images, None, kept)
    assert of_images == forward_flops(config, image_lengths, NONE)
    of_texts, _ = flops(model, texts=texts)
    assert of_texts == forward_flops(config, NONE, text_lengths)


@pytest.mark.usefixtures("_plain")
def test_forward_of_packed_patches():
    cu_seqlens = torch.tensor([0, 2, 7], dtype=torch.int32)
    pixels, positions = torch.zeros(7, 16, 16, dtype=torch.uint8), torch.arange(7, dtype=torch.int32)
    texts = PackedPatches(pixels, positions, VarlenInfo(cu_seqlens, 5))
    found, _ = flops(model_of(INKED), texts=texts)
    assert found == forward_flops(INKED, NONE, cu_seqlens.diff())


def step(model, loss, images, texts, kept):
    loss(*model(images, texts, kept), model.logit_scale.exp(), None).backward()


@pytest.mark.usefixtures("_plain")
@pytest.mark.parametrize("loss", [SoftmaxLossConfig(), SigmoidLossConfig()], ids=lambda config: config.name)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_step(config, loss):
    """The loss computes its logits again, in one product that is no part of the model FLOPs."""
    images, kept, image_lengths = images_and_lengths(config, True)
    texts, text_lengths = texts_and_lengths(config)
    found, _ = flops(step, model_of(config), loss.build().to(DEVICE), images, texts, kept)
    logits = 2 * 3 * 3 * config.embed_dim
    assert found == step_flops(config, image_lengths, text_lengths) + logits


@pytest.mark.slow
@pytest.mark.parametrize("config", [INKED, TWO_TOWERS], ids=["inked", "two towers"])
def test_step_by_kernels(monkeypatch, config):
    """The counter sees the same in the kernels, whose attention computes its logits again as well."""
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    images, kept, image_lengths = images_and_lengths(config, True)
    texts, text_lengths = texts_and_lengths(config)
    model = model_of(config)
    forward, _ = flops(model, images, texts, kept)
    assert forward == forward_flops(config, image_lengths, text_lengths)
    found, _ = flops(step, model, SoftmaxLossConfig().build(), images, texts, kept)
    lengths = [*image_lengths.tolist(), *text_lengths.tolist()]
    again = 2 * 3 * 3 * config.embed_dim + sum(
        config.depth * 2 * N * N * config.width + 2 * N * config.width for N in lengths
    )
    assert found == step_flops(config, image_lengths, text_lengths) + again


def test_published_sizes():
    """A ViT-B/16 has 17.6 G multiply-adds by timm, with a class token that costs as much as the pooling."""
    config = ClippoConfig(
        width=768, depth=12, mlp_dim=3072, num_heads=12, patch_size=16, image_size=224, embed_dim=768
    )
    found = forward_flops(config, torch.tensor([196]), NONE)
    assert found == pytest.approx(2 * 17.6e9, rel=0.01)


def test_lengths_are_checked():
    with pytest.raises(
        ValueError, match=r"image_lengths must be integers of shape \(S,\), got torch.float32"
    ):
        forward_flops(ALL, torch.ones(2), NONE)
    with pytest.raises(ValueError, match=r"text_lengths must be integers .* of shape \(1, 2\)"):
        forward_flops(ALL, NONE, torch.ones(1, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match="for each of 0 images, and two a pair of texts, got 1"):
        step_flops(ALL, NONE, torch.tensor([9]))


def test_a_pair_of_texts_costs_what_its_tokens_cost():
    """Two images and two texts have the tokens of one image and three texts, but more colour."""
    nine = torch.full((4,), 9)
    colour = 2 * 2 * 9 * 2 * ALL.patch_size**2 * ALL.width  # forward and backward of two channels of an image
    assert step_flops(ALL, nine[:2], nine[:2]) == step_flops(ALL, nine[:1], nine[:3]) + colour


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("A100-SXM4-40GB", 312),  # by older drivers
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-32GB", 112),
    ],
)
def test_peaks(name, tflops):
    assert peak_of(name) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA A10M",
        "NVIDIA GB200",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA L40",
        "AMD Instinct MI300X",
    ],
)
def test_other_gpus_have_no_known_peak(name):
    assert peak_of(name) is None


def test_a_cpu_has_no_known_peak():
    assert peak_flops(torch.device("cpu")) is None


def test_the_name_of_a_gpu_gives_its_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    assert peak_flops(torch.device("cuda")) == 756e12
