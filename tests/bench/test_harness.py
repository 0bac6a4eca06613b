import gc
import weakref

import pytest
import torch

from clippo.bench import harness
from clippo.bench.harness import Ceilings, Work
from clippo.bench.peers import attention, contrastive
from clippo.bench.suites.bench_attention import DTYPE, attention_work
from clippo.bench.suites.bench_contrastive import contrastive_work
from clippo.bench.suites.bench_patch_embed import embed_work


def test_floor_is_the_slower_of_bytes_and_arithmetic():
    ceilings = Ceilings(bytes_per_s=100.0, flops_per_s=1000.0)
    assert ceilings.floor_s(Work(bytes=50, flops=1)) == 0.5
    assert ceilings.floor_s(Work(bytes=1, flops=2000)) == 2.0


def test_work_of_attention():
    # docs/kernels.md: per head, bytes 8 N D and 16 N D at 2 bytes an element, FLOP 4 N^2 D and 10 N^2 D
    N, H, D = 196, 12, 64
    forward, backward = (attention_work(N, N * N, H, D, which) for which in ("forward", "backward"))
    both = attention_work(N, N * N, H, D, "both")
    assert forward == Work(4 * N * H * D * DTYPE.itemsize, 4 * N * N * H * D)
    assert backward == Work(8 * N * H * D * DTYPE.itemsize, 10 * N * N * H * D)
    assert both == Work(forward.bytes + backward.bytes, forward.flops + backward.flops)


def test_work_of_patch_embedding():
    # docs/kernels.md: bytes of 256 images of 224 px in and tokens out, FLOP
    tokens, weight = 256 * 196 * 768 * DTYPE.itemsize, 768 * 768 * DTYPE.itemsize
    for C, pixels, flops in ((3, 38.5e6, 59e9), (1, 12.8e6, 20e9)):
        forward, both = (embed_work(256, 224, 16, C, which) for which in ("forward", "both"))
        assert forward.bytes - tokens - weight == pytest.approx(pixels, rel=0.01)
        assert forward.flops == pytest.approx(flops, rel=0.02)
        assert (both.bytes, both.flops) == (2 * forward.bytes, 2 * forward.flops)


class Benchmark:
    """As much of pytest-benchmark as `measure` uses, with the timer that the mark gives it."""

    def __init__(self):
        self.name, self.group = "test_op[clippo]", "a group"
        self.extra_info, self.stats = {}, {}

    def pedantic(self, function, rounds):
        times = []
        for _ in range(rounds):
            start = harness.device_clock()
            function()
            times.append(harness.device_clock() - start)
        self.stats |= {"median": sorted(times)[rounds // 2], "iqr": 0.0, "rounds": rounds}


def test_work_of_contrastive_losses():
    # docs/kernels.md: units of 2 B^2 D FLOP, one forward and three backward
    forward, both = (contrastive_work(32768, 768, which) for which in ("forward", "both"))
    assert forward.flops == pytest.approx(1.65e12, rel=0.01)
    assert both.flops == 4 * forward.flops
    assert both.bytes == 2 * forward.bytes == 4 * 32768 * 768 * DTYPE.itemsize


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a CPU every call is a run")
@pytest.mark.parametrize(("seconds", "rounds"), [(0.25, 7), (5.0, 4), (60.0, 3)])
def test_longer_runs_are_timed_less_often(monkeypatch, seconds, rounds):
    calls = []
    monkeypatch.setattr(harness, "ceilings_of", lambda dtype: Ceilings(1e9, 1e12))
    monkeypatch.setattr(harness, "peak_memory", lambda make: 0)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: seconds * len(calls))
    harness.measure(Benchmark(), lambda: lambda: calls.append(1), Work(1, 1), torch.float32)
    assert len(calls) == rounds + 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the memory of the CPU")
def test_peak_memory():
    mebibyte = 2**20 // 4  # floats

    def call():
        for _ in range(3):  # one after the other
            x = torch.zeros(3 * mebibyte)
            del x
        return torch.zeros(2 * mebibyte) + torch.zeros(2 * mebibyte)

    assert harness.peak_memory(lambda: call) == pytest.approx(6 * 2**20, rel=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a CPU every call is a run")
def test_measure(monkeypatch):
    calls = []
    monkeypatch.setattr(harness, "peak_memory", lambda make: 3 * 2**20)
    monkeypatch.setattr(harness, "ceilings_of", lambda dtype: Ceilings(1e9, 1e12))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: 0.25 * len(calls))  # a call takes 250 ms
    benchmark = Benchmark()
    harness.measure(benchmark, lambda: lambda: calls.append(1), Work(bytes=1e8, flops=5e10), torch.float32)
    assert len(calls) == harness.ROUNDS + 2
    assert benchmark.extra_info == pytest.approx(
        {
            "median_us": 250_000.0,
            "tflops_per_s": 0.2,
            "gb_per_s": 0.4,
            "share_of_roofline": 0.4,
            "runs_per_round": 1,
            "peak_mib": 3.0,
        }
    )


def test_running_out_of_memory_skips_a_benchmark_and_lets_its_tensors_go():
    alive = []

    def make():
        held = torch.zeros(3)
        alive.append(weakref.ref(held))
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 60 GiB")

    with pytest.raises(pytest.skip.Exception, match=r"out of memory: CUDA out of memory\.$") as skipped:
        harness.measure(Benchmark(), make, Work(1, 1), torch.float32)
    assert skipped.value.__context__ is None
    assert alive[0]() is None


def test_a_benchmark_that_fails_lets_its_tensors_go():
    alive = []

    def make():
        held = torch.zeros(3)
        alive.append(weakref.ref(held))
        raise RuntimeError("no available kernel")

    with pytest.raises(RuntimeError, match="no available kernel") as failed:
        harness.measure(Benchmark(), make, Work(1, 1), torch.float32)
    gc.collect()
    assert failed.value.__traceback__ is not None
    assert alive[0]() is None


def test_matrices_of_an_explicit_loss():
    # Its backward holds six float32 matrices of all pairs: too many for 80 GB at 65,536 pairs.
    assert contrastive.matrix_bytes("explicit", 65536) == 6 * 4 * 65536**2
    assert contrastive.matrix_bytes("clippo", 65536) == 0


@pytest.mark.slow
def test_a_backward_of_flex_attention_may_run_again():
    with torch._functorch.config.patch(donated_buffer=True):
        attention.compiled_flex_attention.cache_clear()
        attention.compiled_flex_attention()
        assert torch._functorch.config.donated_buffer is False
