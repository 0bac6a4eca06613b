import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from clippo.bench import cases
from clippo.bench.cases import SECTIONS


def item(file, test, **parameters):
    module = SimpleNamespace(COMPILED={"compiled"}, is_main=lambda test, parameters: parameters["N"] == 50)
    callspec = SimpleNamespace(params=parameters)
    return SimpleNamespace(
        path=Path("bench", f"{file}.py"), originalname=test, callspec=callspec, module=module
    )


@pytest.mark.parametrize(
    ("name", "N", "section"),
    [
        ("clippo", 50, "attention"),
        ("sdpa", 50, "attention"),
        ("sdpa", 1024, "others"),
        ("compiled", 50, "compiled"),
        ("compiled", 1024, "compiled"),
        ("flex", 50, "flex"),
    ],
)
def test_a_benchmark_has_one_section(name, N, section):
    assert cases.section_of(item("bench_attention", "test_packed", name=name, N=N)) == section


def test_sections_have_files():
    for section in SECTIONS:
        for subject in section.subjects:
            assert (Path(__file__).parents[2] / section.file_of(subject)).is_file()


def test_contestants_of_a_problem_run_side_by_side():
    grid = [(name, N) for name in ("clippo", "peer") for N in (197, 50)]
    items = [item("bench_attention", "test_packed", name=name, N=N) for name, N in grid]
    items.append(item("bench_attention", "test_pool", name="clippo", N=50))
    order = [(x.originalname, *x.callspec.params.values()) for x in cases.side_by_side(items)]
    assert order == [
        ("test_packed", "clippo", 197),
        ("test_packed", "peer", 197),
        ("test_packed", "clippo", 50),
        ("test_packed", "peer", 50),
        ("test_pool", "clippo", 50),
    ]


def test_tests_of_all_ops_run_in_turn():
    class Test:
        def __init__(self, op, name):
            self.path, self.name = Path(f"test_{op}.py"), name

    tests = [Test("a", "1"), Test("a", "2"), Test("patch_embed", "3"), Test("patch_embed", "4")]
    assert [test.name for test in cases.in_turn(tests)] == ["1", "3", "2", "4"]


def test_names_of_cases():
    case = cases.case_of("bench/suites/bench_patch_embed.py::test_on_device[clippo-224/16-256]")
    assert case == "bench_patch_embed.py::test_on_device[clippo-224/16-256]"


@pytest.mark.slow
def test_every_suite_but_those_for_gpus_has_a_headline_case():
    """And each name in HEADLINE is that of a benchmark, with parameters that one of its cases has."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "bench", "-m", "headline", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    found = {tuple(re.split(r"::|\[", line)[:2]) for line in done.stdout.splitlines() if "::" in line}
    suites = {str(file.relative_to(root)) for file in (root / "bench" / "suites").glob("bench_*.py")}
    assert suites - {suite for suite, _ in found} == {"bench/suites/bench_training_step.py"}
    conftest = ast.parse((root / "bench" / "conftest.py").read_text())
    (headline,) = (node.value for node in ast.walk(conftest) if isinstance(node, ast.AnnAssign))
    assert {name for _, name in found} == ast.literal_eval(headline).keys()
