import pytest
import torch

from clippo_kernels import ContrastiveLoss, SigmoidLoss, contrastive_loss, sigmoid_loss

LABELS = (torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2]))


@pytest.mark.parametrize("labels", [None, LABELS], ids=["pairs", "labels"])
def test_modules_compute_the_losses(backend, labels):
    image, text = torch.randn(2, 3, 8)
    expected = contrastive_loss(image, text, 2.0, labels=labels)
    assert torch.equal(ContrastiveLoss()(image, text, 2.0, labels), expected)
    expected = sigmoid_loss(image, text, 2.0, -1.0, labels=labels)
    assert torch.equal(SigmoidLoss()(image, text, 2.0, -1.0, labels), expected)
    assert not list(SigmoidLoss().parameters())


@pytest.mark.parametrize("loss", [ContrastiveLoss, SigmoidLoss])
def test_a_backend_is_passed_on(loss):
    arguments = [torch.randn(2, 4), torch.randn(2, 4), 1.0, 0.0][: 3 + (loss is SigmoidLoss)]
    with pytest.raises(ValueError, match="^backend must be one of eager, triton, got 'cudnn'"):
        loss(backend="cudnn")(*arguments)


@pytest.mark.parametrize("loss", [ContrastiveLoss, SigmoidLoss])
def test_a_group_is_passed_on(loss):
    arguments = [torch.randn(2, 4), torch.randn(2, 4), 1.0, 0.0][: 3 + (loss is SigmoidLoss)]
    with pytest.raises(TypeError, match="group must be a torch.distributed.ProcessGroup or None, got 'all'"):
        loss(group="all")(*arguments)
