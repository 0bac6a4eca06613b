import pytest
import torch
import torch.nn.functional as F

from clippo.model.configs import choices
from clippo.training.losses import LossConfig, SigmoidLossConfig, SoftmaxLossConfig


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(6, 8, generator=generator), dim=1).requires_grad_() for _ in range(2)]


def test_softmax_is_the_mean_of_two_cross_entropies(embeddings):
    z_images, z_texts = embeddings
    scale = torch.tensor([7.0])
    logits, pairs = scale * z_images @ z_texts.T, torch.arange(6)
    expected = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    torch.testing.assert_close(SoftmaxLossConfig().build()(z_images, z_texts, scale, None), expected)


def test_sigmoid_is_a_sum_over_all_pairs_and_trains_its_bias(embeddings):
    z_images, z_texts = embeddings
    scale = torch.tensor([7.0], requires_grad=True)
    loss = SigmoidLossConfig(initial_bias=-2.0).build()
    value = loss(z_images, z_texts, scale, None)
    bias = torch.tensor(-2.0, requires_grad=True)
    expected = -F.logsigmoid((2 * torch.eye(6) - 1) * (scale * z_images @ z_texts.T + bias)).sum() / 6
    torch.testing.assert_close(value, expected)
    [(name, parameter)] = loss.named_parameters()
    assert name == "logit_bias"
    torch.testing.assert_close(
        torch.autograd.grad(value, parameter)[0], torch.autograd.grad(expected, bias)[0][None]
    )


def test_parameters_have_a_dimension():
    """FSDP cannot shard a tensor without any."""
    for config in choices(LossConfig).values():
        assert all(parameter.ndim == 1 for parameter in config().build().parameters())
