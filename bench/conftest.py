"""Options and hooks of the benchmarks. `make bench` runs them all."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import pytest
import torch

from clippo.bench.harness import append_row

deadline = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--time-limit", type=float, help="skip the benchmarks that are left after these seconds")


def pytest_configure(config: pytest.Config) -> None:
    limit = config.getoption("--time-limit")
    config.stash[deadline] = float("inf") if limit is None else time.monotonic() + limit


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Run the contestants last that a suite calls COMPILED.

    torch.compile takes minutes for all shapes of one, which must not keep the others from being measured.
    """
    items.sort(key=lambda item: parameters_of(item).get("name") in getattr(item.module, "COMPILED", ()))


def parameters_of(item: pytest.Function) -> dict[str, object]:
    """The parameters of a benchmark, none where it is not parametrized."""
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Leave PyTorch one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() > item.config.stash[deadline]:
        pytest.skip("out of time")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record why a contestant was not measured, in the same file as the rows of the others."""
    report = yield
    parameters = parameters_of(item)
    if call.excinfo is not None and "name" in parameters:
        reason = call.excinfo.exconly().partition("\n")[0].removeprefix("Skipped: ")
        append_row({"test": item.originalname, "name": parameters["name"], "not_run": reason})
    return report
