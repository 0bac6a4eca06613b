import pytest
import torch
from torch import nn

from clippo_kernels import cached_contrastive_step, contrastive_loss, sigmoid_loss


class Tower(nn.Module):
    """One tower for both sides, which drops out features and, of images, whole patches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 8))
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.calls = []

    def forward(self, images, texts):
        self.calls.append((len(images), torch.is_grad_enabled()))
        kept = torch.randperm(images.shape[1])[: images.shape[1] // 2]
        return self.layers(images[:, kept].mean(1)), self.layers(texts)


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


LOSSES = {
    "contrastive": lambda model: lambda x, y: contrastive_loss(x, y, model.scale),
    "sigmoid": lambda model: lambda x, y: sigmoid_loss(x, y, model.scale, -3.0),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("chunk_size", "chunks"), [(4, [4, 4, 2]), (5, [5, 5]), (1, [1] * 10), (10, [10]), (99, [10])]
)
def test_is_the_plain_step(name, chunk_size, chunks):
    model = Tower()
    images, texts = torch.randn(10, 7, 6), torch.randn(10, 6)
    loss = LOSSES[name](model)

    torch.manual_seed(2)
    parts = [model(*chunk) for chunk in zip(images.split(chunk_size), texts.split(chunk_size), strict=True)]
    expected = loss(*(torch.cat(z) for z in zip(*parts, strict=True)))
    expected.backward()
    expected_gradients, after = gradients(model), torch.rand(3)

    model.zero_grad()
    model.calls.clear()
    torch.manual_seed(2)
    value = cached_contrastive_step(model, images, texts, loss, chunk_size=chunk_size)
    assert torch.equal(value, expected)
    assert not value.requires_grad
    torch.testing.assert_close(gradients(model), expected_gradients, rtol=1e-6, atol=1e-7)
    # What comes after draws the same random numbers.
    assert torch.equal(torch.rand(3), after)
    passes = [False, True] if len(chunks) > 1 else [True]
    assert model.calls == [(n, with_graph) for with_graph in passes for n in chunks]


def test_gradients_are_added():
    model = Tower().eval()
    images, texts = torch.randn(6, 7, 6), torch.randn(6, 6)
    loss = LOSSES["contrastive"](model)
    once = []
    for _ in range(2):
        torch.manual_seed(2)
        cached_contrastive_step(model, images, texts, loss, chunk_size=2)
        once.append(gradients(model))
    torch.testing.assert_close(once[1], [2 * g for g in once[0]])


def test_activations_of_one_chunk_are_alive():
    """Of what the graph keeps, only a chunk's part: the plain step keeps all of it."""
    alive = [0, 0]

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.rows = len(x) if x.requires_grad else 0
            alive[0] += ctx.rows
            alive[1] = max(alive)
            return x.clone()

        @staticmethod
        def backward(ctx, dx):
            alive[0] -= ctx.rows
            return dx

    layer = nn.Linear(6, 8)

    def embed(images, texts):
        return Counted.apply(layer(images)), Counted.apply(layer(texts))

    images, texts = torch.randn(2, 12, 6)
    cached_contrastive_step(embed, images, texts, lambda x, y: contrastive_loss(x, y, 5.0), chunk_size=3)
    assert alive == [0, 6]


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_chunk_size_error(chunk_size):
    images = torch.zeros(4, 6)
    with pytest.raises(ValueError, match=f"chunk_size must be at least 1, got {chunk_size}"):
        cached_contrastive_step(Tower(), images, images, LOSSES["sigmoid"](Tower()), chunk_size=chunk_size)


def test_rows_error():
    images = torch.zeros(4, 6)
    with pytest.raises(ValueError, match="texts must have as many rows as images, 4, got 3"):
        cached_contrastive_step(Tower(), images, images[:3], LOSSES["sigmoid"](Tower()), chunk_size=2)


@pytest.mark.parametrize("chunk_size", [3, 8])
def test_rows_may_be_tuples_of_tensors(chunk_size):
    """As for texts with a mask of their tokens."""
    torch.manual_seed(0)
    tower, images, texts = torch.nn.Linear(4, 6), torch.randn(8, 4), torch.randn(8, 4)
    mask = torch.rand(8, 4) < 0.5

    def loss(z_images, z_texts):
        return contrastive_loss(z_images, z_texts, 5.0)

    loss(tower(images), tower(texts * mask)).backward()
    expected, tower.weight.grad = tower.weight.grad, None
    cached_contrastive_step(
        lambda x, y: (tower(x), tower(y[0] * y[1])), images, (texts, mask), loss, chunk_size=chunk_size
    )
    torch.testing.assert_close(tower.weight.grad, expected)
    with pytest.raises(ValueError, match="texts must have as many rows as images, 8, got 7"):
        cached_contrastive_step(lambda x, y: (x, y[0]), images, (texts, mask[:7]), loss, chunk_size=3)
