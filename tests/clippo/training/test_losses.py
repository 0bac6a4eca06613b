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


def within_kinds(z_images, z_texts, scale, is_text, labels=None):
    """Mean over all pairs of their losses among the pairs of their kind, by the whole matrix of logits."""
    logits = scale * z_images @ z_texts.T
    labels = torch.arange(len(logits)) if labels is None else labels
    positive = (labels[:, None] == labels) & (is_text[:, None] == is_text)
    targets = positive.double() / positive.sum(1)
    logits = logits.masked_fill(is_text[:, None] != is_text, -1e9)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


@pytest.mark.parametrize("labels", [None, torch.tensor([5, 3, 5, 9, 3, 5])], ids=["all differ", "some equal"])
@pytest.mark.parametrize("texts", [[], [3], [0, 2, 5], [0, 1, 2, 3, 4, 5]], ids=len)
def test_within_kinds(embeddings, texts, labels):
    """Whatever the numbers of the two kinds. A text is equal to one of a pair of the other kind as well."""
    found, expected = ([z.detach().double().requires_grad_() for z in embeddings] for _ in range(2))
    scales = [torch.tensor([7.0], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    is_text = torch.zeros(6, dtype=torch.bool)
    is_text[texts] = True
    value = SoftmaxLossConfig(within_kinds=True).build()(*found, scales[0], None, labels, is_text)
    plain = within_kinds(*expected, scales[1], is_text, labels)
    torch.testing.assert_close(value, plain, atol=1e-12, rtol=1e-12)
    gradients = (
        torch.autograd.grad(x, y) for x, y in ((value, (*found, scales[0])), (plain, (*expected, scales[1])))
    )
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)


def test_within_kinds_where_nothing_tells_the_kinds_is_the_plain_loss(embeddings):
    scale = torch.tensor([7.0])
    plain, within = (SoftmaxLossConfig(within_kinds=flag).build() for flag in (False, True))
    torch.testing.assert_close(within(*embeddings, scale, None), plain(*embeddings, scale, None))


def test_only_within_kinds_tells_the_kinds_apart(embeddings):
    scale, is_text = torch.tensor([7.0]), torch.tensor([True, False, False] * 2)
    for loss in (SoftmaxLossConfig().build(), SigmoidLossConfig().build()):
        assert loss(*embeddings, scale, None, None, is_text) == loss(*embeddings, scale, None)
    within = SoftmaxLossConfig(within_kinds=True).build()(*embeddings, scale, None, None, is_text)
    assert within < SoftmaxLossConfig().build()(*embeddings, scale, None)


def test_parameters_have_a_dimension():
    """FSDP cannot shard a tensor without any."""
    for config in choices(LossConfig).values():
        assert all(parameter.ndim == 1 for parameter in config().build().parameters())
