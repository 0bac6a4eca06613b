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


@pytest.mark.parametrize("config", [SoftmaxLossConfig(), SigmoidLossConfig()])
def test_pairs_of_equal_label_are_positives_of_one_another(embeddings, config):
    z_images, z_texts = embeddings
    scale, labels = torch.tensor([7.0]), torch.tensor([5, 3, 5, 9, 3, 5])
    logits = scale * z_images @ z_texts.T
    positive = (labels[:, None] == labels).float()
    if isinstance(config, SoftmaxLossConfig):
        targets = positive / positive.sum(1)
        expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    else:
        expected = -F.logsigmoid((2 * positive - 1) * (logits - 10)).sum() / 6
    torch.testing.assert_close(config.build()(z_images, z_texts, scale, None, labels), expected)


def test_parameters_have_a_dimension():
    """FSDP cannot shard a tensor without any."""
    for config in choices(LossConfig).values():
        assert all(parameter.ndim == 1 for parameter in config().build().parameters())
