"""GLUE's readers on small files of the layouts of its authors and of the hub, and its average."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clippo.errors import UserError
from clippo.evaluation.base import Estimate
from clippo.evaluation.glue import GlueConfig, average
from clippo.evaluation.text_tasks import GLUE, load_task
from tests.clippo.evaluation.conftest import GLUE_COUNT, GLUE_RELATED, write_glue

LABELS = {"mnli": lambda i: GLUE_RELATED[i % 3], "stsb": lambda i: float(f"{i / 6:.3f}")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("glue"))


def hub(root, folder):
    """Write what the files of its authors hold in the layout of the hub."""
    for name, layout in GLUE.items():
        task = load_task(f"glue/{name}", str(folder))
        (root / name).mkdir()
        parts = {"train": [task.train, task.validation]}
        for kind, title in layout.tests:
            parts[f"validation{kind}"] = [task.tests[title]]
        for part, own in parts.items():
            sides = [[t for p in own for t in side(p)] for side in (lambda p: p.texts, lambda p: p.seconds)]
            table = dict(zip(layout.hub_columns, sides, strict=False))
            table["label"] = np.concatenate([p.labels for p in own]).tolist()
            if task.classes:  # a secret label
                table = {column: [*values, values[0]] for column, values in table.items()}
                table["label"][-1] = -1
            pq.write_table(pa.table(table), root / name / f"{part}-00000-of-00001.parquet")


@pytest.mark.parametrize("name", GLUE)
def test_the_files_of_its_authors_are_read(folder, name):
    task, layout = load_task(f"glue/{name}", str(folder)), GLUE[name]
    assert [len(task.train), len(task.validation)] == [GLUE_COUNT - 3, 3]
    assert [len(part) for part in task.tests.values()] == [GLUE_COUNT] * len(layout.tests)
    expected = LABELS.get(name, lambda i: i % 2)
    for part in (task.train, task.validation, *task.tests.values()):
        assert bool(part.seconds) == (len(layout.columns) == 2)
        for row, text in enumerate(part.inputs):
            number = int("".join(c for c in text.split(" [SEP] ")[0] if c.isdecimal()))
            label = part.labels[row]
            assert (task.classes[label] if name == "mnli" else label) == expected(number)
            assert part is not task.train or number < 1000
    if name in ("cola", "sst2", "mrpc"):
        assert all('"' in text for text in task.train.texts)
    assert ("glue/sst2" in task.name) == bool(task.prompts)


def test_the_files_of_the_hub_hold_the_same(folder, tmp_path):
    hub(tmp_path, folder)
    for name in GLUE:
        ours, hubs = (load_task(f"glue/{name}", str(root)) for root in (folder, tmp_path))
        for title, part in ours.tests.items():
            assert part.inputs == hubs.tests[title].inputs
            assert part.labels.tolist() == hubs.tests[title].labels.tolist()
        both = [sorted(task.train.inputs + task.validation.inputs) for task in (ours, hubs)]
        assert both[0] == both[1]


def test_f1_is_that_of_the_pairs_that_mean_the_same():
    assert GLUE["mrpc"].classes[1] == "equivalent"
    assert GLUE["qqp"].classes[1] == "duplicate"
    assert [GLUE[name].metrics[0] for name in ("cola", "stsb", "qqp", "mrpc", "rte")] == [
        "matthews", "spearman", "f1", "f1", "accuracy"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("RTE/dev.tsv", "1\ta\tb", "RTE/dev.tsv, line 2 must have 4 columns, got 3"),
        (
            "RTE/dev.tsv",
            "1\ta\tb\tmaybe",
            "line 2 has the label 'maybe', expected one of entailment, not_ent",
        ),
        ("RTE/dev.tsv", "1\ta\tb\t7", "line 2 has the label 7, expected 0 to 1"),
        (
            "STS-B/dev.tsv",
            "1\t2\t3\t4\t5\t6\t7\ta\tb\tfive",
            "line 2 has the score 'five', expected a number",
        ),
        ("MNLI/dev_matched.tsv", "1\ta\tb", "line 2 must have at least 10 columns, got 3"),
        ("STS-B/dev.tsv", None, "STS-B/dev.tsv holds no example with a label"),
        ("CoLA/dev.tsv", "", "there is neither .*CoLA/dev.tsv nor .*cola/validation-00000-of-00001.parquet"),
    ],
)
def test_other_layouts_get_one_message(folder, tmp_path, file, line, message):
    name = {"RTE": "rte", "STS-B": "stsb", "CoLA": "cola", "MNLI": "mnli"}[file.partition("/")[0]]
    task = tmp_path / GLUE[name].folder
    task.mkdir()
    (task / "train.tsv").write_text((folder / GLUE[name].folder / "train.tsv").read_text())
    if line != "":
        (tmp_path / file).write_text("header\n" + (f"{line}\n" if line else ""))
    with pytest.raises(UserError, match=message):
        load_task(f"glue/{name}", str(tmp_path))


def test_a_parquet_file_without_its_columns_gets_one_message(tmp_path):
    (tmp_path / "rte").mkdir()
    file = tmp_path / "rte" / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"sentence1": ["a"], "label": [0]}), file)
    with pytest.raises(UserError, match="rte/train-.* must have the columns sentence1, sentence2, label"):
        load_task("glue/rte", str(tmp_path))
    file.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="rte/train-.* must have the columns"):
        load_task("glue/rte", str(tmp_path))


@pytest.mark.slow
def test_the_average_is_that_of_nine_metrics(folder, ignorant):
    metrics = GlueConfig(path=str(folder), max_train=24, max_test=8).build(None, None, 64)(ignorant)
    nine = [
        metrics[name]
        for name in (
            "cola/probe/matthews", "sst2/probe/accuracy", "mrpc/probe/f1", "stsb/probe/spearman",
            "qqp/probe/f1", "mnli/matched/probe/accuracy", "mnli/mismatched/probe/accuracy",
            "qnli/probe/accuracy", "rte/probe/accuracy",
        )
    ]  # fmt: skip
    assert metrics["probe/average"] == pytest.approx(np.mean(nine))
    assert metrics["stsb/chance/spearman"] == 0
    some = GlueConfig(path=str(folder), tasks=("rte",), max_train=24, max_test=8).build(None, None, 64)
    assert "probe/average" not in some(ignorant)
    with pytest.raises(UserError, match="tasks must be among cola, .*; got wnli"):
        GlueConfig(tasks=("wnli",))


def test_the_interval_of_an_average_is_that_of_independent_metrics():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(100_000, 2)) * (3, 4) / 1.959964
    low, high = np.quantile(spread.mean(1), [0.025, 0.975])
    found = average([Estimate(50.0, 47.0, 53.0), Estimate(10.0, 6.0, 14.0)])
    assert (found, found.low - 30, found.high - 30) == pytest.approx((30, low, high), rel=0.02)
    assert average([Estimate(50.0, 47.0, 53.0), 0.0]).low == 23.5
