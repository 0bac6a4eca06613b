import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import clippo_kernels
from clippo_kernels import (
    attention_pool,
    attention_pool_varlen,
    contrastive_loss,
    flash_attention,
    flash_attention_qkvpacked,
    flash_attention_varlen,
    patch_embed,
    patch_embed_select,
    sigmoid_loss,
)
from clippo_kernels.dispatch import BACKEND_VARIABLE, choose_backend

CALLS = {
    "patch_embed": lambda: patch_embed(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4)),
    "patch_embed_select": lambda: patch_embed_select(
        torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, dtype=torch.int32), torch.zeros(2, 3, 4, 4)
    ),
    "flash_attention": lambda: flash_attention(*torch.zeros(3, 1, 2, 1, 4)),
    "flash_attention_qkvpacked": lambda: flash_attention_qkvpacked(torch.zeros(1, 2, 3, 1, 4)),
    "flash_attention_varlen": lambda: flash_attention_varlen(
        torch.zeros(2, 3, 1, 4), torch.tensor([0, 2], dtype=torch.int32), 2
    ),
    "attention_pool": lambda: attention_pool(torch.zeros(1, 4), torch.zeros(1, 2, 2, 1, 4)),
    "attention_pool_varlen": lambda: attention_pool_varlen(
        torch.zeros(1, 4), torch.zeros(2, 2, 1, 4), torch.tensor([0, 2], dtype=torch.int32), 2
    ),
    "contrastive": lambda: contrastive_loss(torch.zeros(2, 4), torch.zeros(2, 4), 1.0),
    "sigmoid": lambda: sigmoid_loss(torch.zeros(2, 4), torch.zeros(2, 4), 1.0, 0.0),
}


@pytest.mark.parametrize(
    ("device", "has_kernels", "expected"),
    [("cuda", True, "triton"), ("cuda", False, "eager"), ("cpu", True, "eager"), ("mps", True, "eager")],
)
@pytest.mark.parametrize("variable", [None, ""])
def test_device_decides(monkeypatch, device, has_kernels, expected, variable):
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(BACKEND_VARIABLE, variable)
    assert choose_backend("op", torch.device(device), has_kernels, None) == expected


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_variable_forces_and_the_argument_beats_it(monkeypatch, device, backend):
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("op", torch.device(device), True, None) == backend
    monkeypatch.setenv(BACKEND_VARIABLE, "cudnn")  # which is not read
    assert choose_backend("op", torch.device(device), True, backend) == backend


@pytest.fixture(params=["variable", "argument"])
def force(request, monkeypatch):
    """Call `choose_backend` with a name forced in either way; also returns how errors call that."""
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)

    def choose(name, device, has_kernels=True):
        if request.param == "argument":
            return choose_backend("op", torch.device(device), has_kernels, name)
        monkeypatch.setenv(BACKEND_VARIABLE, name)
        return choose_backend("op", torch.device(device), has_kernels, None)

    return choose, {"variable": BACKEND_VARIABLE, "argument": "backend"}[request.param]


def test_forcing_what_is_missing(force):
    choose, source = force
    with pytest.raises(RuntimeError, match=f"^{source}=triton, but op has no triton implementation"):
        choose("triton", "cpu", has_kernels=False)


def test_forcing_triton_where_it_cannot_run(force, monkeypatch):
    choose, source = force
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        RuntimeError,
        match=f"^{source}=triton needs Triton, and tensors on a GPU or TRITON_INTERPRET=1; got .* cpu",
    ):
        choose("triton", "cpu")
    monkeypatch.setattr("clippo_kernels.dispatch.HAS_TRITON", False)
    with pytest.raises(RuntimeError, match=f"^{source}=triton needs Triton"):
        choose("triton", "cuda")


def test_forcing_an_unknown_name(force):
    choose, source = force
    with pytest.raises(ValueError, match=f"^{source} must be one of eager, triton, got 'cudnn'"):
        choose("cudnn", "cpu")


def test_gpu_without_triton(monkeypatch):
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)
    monkeypatch.setattr("clippo_kernels.dispatch.HAS_TRITON", False)
    assert choose_backend("op", torch.device("cuda"), True, None) == "eager"


@pytest.mark.parametrize("name", CALLS)
def test_every_op_reads_the_variable(monkeypatch, name):
    monkeypatch.setenv(BACKEND_VARIABLE, "eager")
    CALLS[name]()
    monkeypatch.setenv(BACKEND_VARIABLE, "cudnn")
    with pytest.raises(ValueError, match="must be one of eager, triton, got 'cudnn'"):
        CALLS[name]()


def test_public_names():
    assert all(callable(getattr(clippo_kernels, name)) for name in clippo_kernels.__all__)
    folders = [file.parent.name for file in Path(clippo_kernels.__file__).parent.glob("*/reference.py")]
    ops = [import_module(f"clippo_kernels.{folder}") for folder in folders]
    beside_ops = ["ContrastiveLoss", "SigmoidLoss", "register_flop_formulas", "trusted_indices"]
    assert sorted([*beside_ops, *(name for op in ops for name in op.__all__)]) == sorted(
        clippo_kernels.__all__
    )


@pytest.mark.slow
def test_imports_and_runs_without_triton():
    code = """
import sys
sys.modules["triton"] = None  # makes any import of it fail
import torch, clippo_kernels
clippo_kernels.contrastive_loss(torch.ones(2, 4), torch.ones(2, 4), 1.0)
clippo_kernels.flash_attention_qkvpacked(torch.ones(1, 2, 3, 1, 4))
clippo_kernels.patch_embed(torch.ones(1, 3, 4, 4), torch.ones(2, 3, 4, 4))
"""
    root = Path(clippo_kernels.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=600)
