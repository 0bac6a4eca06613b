"""Plugin of pytest for a run on a GPU: which cases a section has, in which order, and what is kept of each.

    pytest -p clippo.bench.cases --section attention --record results.json bench/suites/bench_attention.py

Cases that the record has already are left out, so that the same command goes on where a process has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from clippo.bench.record import Record
from clippo.bench.report import row_of
from clippo.results import Row
from clippo_kernels import tuning

__all__ = ["SECTIONS", "Section", "parameters_of"]

OPS = tuning.ops()


@dataclass(frozen=True)
class Section:
    """A part of a run with a time of its own.

    Attributes:
        name: of the section.
        seconds: its share of the whole time; what it leaves goes to those after it.
        subjects: the ops, or other subjects of a suite, that it is about.
    """

    name: str
    seconds: float
    subjects: Sequence[str]

    @property
    def is_tests(self) -> bool:
        return self.name == "correctness"

    def file_of(self, subject: str) -> str:
        """The tests or the suite of a subject."""
        if self.is_tests:
            return f"tests/clippo_kernels/test_{subject}.py"
        return f"bench/suites/bench_{subject}.py"


# By worth: what comes first is measured even if the time is short.
SECTIONS = (
    Section("correctness", 60, OPS),
    *(Section(op, {"attention": 130, "contrastive": 70}.get(op, 50), [op]) for op in OPS),
    Section("training_step", 80, ["training_step"]),
    Section("others", 50, OPS),
    Section("compiled", 45, [*OPS, "training_step"]),
    Section("flex", 45, ["attention"]),
)


def section_of(item: pytest.Function) -> str:
    """The name of the section of a benchmark: that of its subject for those that matter most.

    Suites name the contestants that torch.compile makes slow to begin with in COMPILED, and `is_main` says by
    the parameters of a benchmark whether it matters most.
    """
    parameters, suite = parameters_of(item), item.module
    if parameters.get("name") == "flex":
        return "flex"
    if parameters.get("name") in getattr(suite, "COMPILED", ()):
        return "compiled"
    return subject_of(item) if suite.is_main(item.originalname, parameters) else "others"


def subject_of(item: pytest.Item) -> str:
    """The op, or other subject, of a test or a benchmark, by its file."""
    return item.path.stem.partition("_")[2]


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """The parameters of a case, none where it is not parametrized."""
    return item.callspec.params if hasattr(item, "callspec") else {}


def case_of(nodeid: str) -> str:
    """The name of a case in the record: its file without the folders, and its test with the parameters."""
    file, _, test = nodeid.partition("::")
    return f"{Path(file).name}::{test}"


def in_turn(tests: Sequence[pytest.Function]) -> list[pytest.Function]:
    """The tests of all ops in turn."""
    numbers: Counter[str] = Counter()
    turns = {}
    for test in tests:
        turns[test] = numbers[subject_of(test)]
        numbers[subject_of(test)] += 1
    return sorted(tests, key=lambda test: turns[test])


def side_by_side(benchmarks: Sequence[pytest.Function]) -> list[pytest.Function]:
    """The benchmarks with all contestants of a problem one after the other, ours first."""
    first: dict[tuple[object, ...], int] = {}
    for i, item in enumerate(benchmarks):
        first.setdefault(problem_of(item), i)
    return sorted(benchmarks, key=lambda item: first[problem_of(item)])


def problem_of(item: pytest.Function) -> tuple[object, ...]:
    """The benchmark and its parameters without the contestant, equal for all contestants of one problem."""
    parameters = parameters_of(item)
    return (item.path, item.originalname, *(f"{k}={v}" for k, v in parameters.items() if k != "name"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--section", choices=[section.name for section in SECTIONS])
    parser.addoption("--record", type=Path, help="the file of results to add to")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--section")
    for section in SECTIONS:
        if section.name == name:
            record = Record(config.getoption("--record"))
            recorder: object = BenchmarkRecorder(section, record)
            if section.is_tests:
                recorder = TestRecorder(record, is_worker=hasattr(config, "workerinput"))
            config.pluginmanager.register(recorder)


class TestRecorder:
    """Keeps the outcomes of tests, which may run in workers of pytest-xdist for the process that records."""

    __test__ = False  # it is none itself

    def __init__(self, record: Record, *, is_worker: bool) -> None:
        self.record = record
        self.is_worker = is_worker

    @pytest.hookimpl(trylast=True)  # when those that `-m` leaves out are gone
    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        items[:] = [test for test in in_turn(items) if not self.record.is_done(case_of(test.nodeid))]
        if not self.is_worker:
            self.plan(test.nodeid for test in items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Take the tests from the workers, each of which collects all."""
        self.plan(nodeid for nodeid in ids if case_of(nodeid) not in self.record.cases)

    def plan(self, ids: Iterable[str]) -> None:
        self.record.plan(
            {"op": Path(nodeid.partition("::")[0]).stem.removeprefix("test_"), "case": case_of(nodeid)}
            for nodeid in ids
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.is_worker or (report.passed and report.when != "call"):
            return
        result: Row = {"outcome": report.outcome}
        if not report.passed:
            result["reason"] = reason_of(report)
        self.record.keep(case_of(report.nodeid), result)


def reason_of(report: pytest.TestReport) -> str:
    """The first line of what a test says that failed or was skipped."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(report.longrepr if crash is None else crash.message).partition("\n")[0]


class BenchmarkRecorder:
    """Keeps the rows of benchmarks, and why others did not run."""

    def __init__(self, section: Section, record: Record) -> None:
        self.section = section
        self.record = record

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        own = [item for item in items if section_of(item) == self.section.name]
        items[:] = [x for x in side_by_side(own) if not self.record.is_done(case_of(x.nodeid))]
        self.record.plan(
            {
                "test": item.originalname,
                "name": parameters_of(item).get("name", item.originalname),
                "case": case_of(item.nodeid),
            }
            for item in items
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Function) -> None:
        self.record.begin(case_of(item.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Function, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        case = case_of(item.nodeid)
        if call.excinfo is not None:
            reason = call.excinfo.exconly().partition("\n")[0].removeprefix("Skipped: ")
            self.record.not_run_because(case, reason)
            if call.excinfo.errisinstance(torch.AcceleratorError):
                # All that comes after it in this process may fail; another process goes on.
                item.session.shouldstop = reason
        elif call.when == "call":
            ran: Any = item.funcargs["benchmark"]
            self.record.keep(case, row_of(ran.name, ran.group, ran.extra_info, ran.stats))
        return report
