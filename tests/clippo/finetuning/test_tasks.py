"""Texts, questions and labelled pictures of their true layouts all become tasks."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from clippo.data.spec import source_config
from clippo.data.transform import PlaceConfig, SquashConfig
from clippo.data.vqa2 import Vqa2Config
from clippo.errors import UserError
from clippo.evaluation.text_tasks import FETCHED
from clippo.finetuning.fine_tuned import About, FineTuned
from clippo.finetuning.inputs import LabelledPictures, QuestionsInPictures, Texts
from clippo.finetuning.objectives import Answers, Classification, Regression
from clippo.finetuning.tasks import load_named_task, task_of_questions
from clippo.finetuning.trainer import FinetuneConfig, finetune
from clippo.training.run_folder import RunFolder
from tests.clippo.conftest import write_part
from tests.clippo.evaluation.conftest import GLUE_COUNT, texts, write_glue  # noqa: F401 - a fixture

OPTIONS = {"transform": SquashConfig(), "image_size": 48}


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    return str(write_glue(tmp_path_factory.mktemp("glue")))


def test_a_pair_task_of_glue(glue, model):
    task = load_named_task("glue/mnli", root=glue, **OPTIONS)
    assert isinstance(task.objective, Classification)
    assert task.objective.classes == ("entailment", "neutral", "contradiction")
    assert [len(task.train), len(task.dev)] == [GLUE_COUNT - 3, 3]
    assert {name: len(part) for name, part in task.tests.items()} == {"matched": 30, "mismatched": 30}
    assert isinstance(task.train.inputs, Texts)
    assert all(" [SEP] " in text for text in task.train.inputs.strings)
    # A constant prediction of three classes that are equally frequent
    test = task.tests["matched"]
    assert task.objective.guessing(test.targets, test.rows) == {"accuracy": pytest.approx(100 / 3)}
    pooled = task.train.inputs.pooled(model, np.array([3, 0]))
    text = task.train.inputs.strings
    assert torch.equal(pooled, model.pool_texts(model.text_input.tokenize([text[3], text[0]])))


def test_a_regression_of_glue(glue):
    task = load_named_task("glue/stsb", root=glue, **OPTIONS)
    objective, rows = task.objective, task.dev.rows
    assert isinstance(objective, Regression)
    scores = torch.tensor((task.dev.targets[rows] - objective.mean) / objective.std)[:, None].float()
    assert objective.loss(scores, task.dev.targets, rows) < 1e-10
    assert objective.metrics(scores, task.dev.targets, rows)["spearman"] == pytest.approx(100)
    assert objective.guessing(task.dev.targets, rows) == {"spearman": 0.0, "pearson": 0.0}


def test_matthews_and_f1_of_guessing(glue):
    cola, mrpc = (load_named_task(f"glue/{name}", root=glue, **OPTIONS) for name in ("cola", "mrpc"))
    test = cola.tests[""]
    assert cola.objective.guessing(test.targets, test.rows) == {"matthews": 0.0}
    test = mrpc.tests[""]
    found = mrpc.objective.guessing(test.targets, test.rows)
    assert found == {"f1": pytest.approx(200 / 3), "accuracy": 50.0}  # always "equivalent", of which half are


def test_examples_are_drawn_alike_at_every_call(glue):
    few, again = (
        load_named_task("glue/sst2", root=glue, max_train=12, max_test=5, **OPTIONS) for _ in range(2)
    )
    assert [len(few.train), len(few.dev), len(few.tests[""])] == [12, 3, 5]
    assert few.train.inputs.strings == again.train.inputs.strings
    assert few.fingerprint == again.fingerprint
    assert few.fingerprint != load_named_task("glue/sst2", root=glue, **OPTIONS).fingerprint


@pytest.fixture
def vqa2(tmp_path):
    write_part(tmp_path / "vqa", "train2014", [n * 1000 + k for n in range(20) for k in range(2)])
    write_part(tmp_path / "vqa", "val2014", [n * 1000 for n in range(90, 95)])
    for part in ("train2014", "val2014"):  # two answers, by the number of the photograph
        file = tmp_path / f"vqa/v2_mscoco_{part}_annotations.json"
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            if annotation["image_id"] % 2:
                annotation["multiple_choice_answer"] = "mesh"
                for number, answer in enumerate(annotation["answers"]):
                    answer["answer"] = "mesh" if number < 8 else "net"
        file.write_text(json.dumps(content))
    return tmp_path / "vqa"


def test_questions_in_the_layout_of_vqa_v2(vqa2, model):
    task = load_named_task("vqa", root=str(vqa2), position="middle", **OPTIONS)
    objective = task.objective
    assert isinstance(objective, Answers)
    assert objective.vocabulary == ("mesh", "net")
    assert len(task.train) + len(task.dev) == 40
    assert len(task.tests[""]) == 5
    asked = task.train.targets.questions
    pictures = [{asked[row].picture for row in part.rows} for part in (task.train, task.dev)]
    assert len(pictures[1]) == 2  # a tenth of the pictures, with all of their questions
    assert not pictures[0] & pictures[1]
    # Always right, by the soft targets of the answers of ten people
    test = task.tests[""]
    right = torch.tensor(
        [[float(int(q.picture) % 2), float(int(q.picture) % 2 == 0)] for q in test.targets.questions]
    )
    found = objective.metrics(right, test.targets, test.rows)
    assert found["accuracy"] == pytest.approx(100)
    assert set(found) == {"accuracy", "other/accuracy"}
    # Of the ten people who were asked about the first photograph, one says mesh: 0.3 of an answer.
    wanted = torch.tensor([[1.0, 0.6] if int(q.picture) % 2 else [0.3, 1.0] for q in test.targets.questions])
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(right, wanted, reduction="sum") / 5
    assert objective.loss(right, test.targets, test.rows) == pytest.approx(entropy.item())
    # "net" is the majority: right of three photographs, and 0.6 of an answer about two.
    assert objective.guessing(test.targets, test.rows)["accuracy"] == pytest.approx(84)
    # The tower reads the photograph with the question in it.
    assert isinstance(task.train.inputs, QuestionsInPictures)
    questions = Vqa2Config(root=str(vqa2)).build("train", 48)
    pixels = model.compose([questions.image(3)], [questions.asked[3].text], position="middle")
    assert torch.equal(
        task.train.inputs.pooled(model, np.array([3])), model.pool_images(torch.from_numpy(pixels))
    )
    few = load_named_task("vqa", root=str(vqa2), max_train=8, max_test=2, **OPTIONS)
    assert [len(few.train), len(few.dev), len(few.tests[""])] == [8, 2, 2]


def test_answers_must_come_often_enough(vqa2_root):
    questions = Vqa2Config(root=str(vqa2_root)).build("train", 48)
    with pytest.raises(UserError, match="two answers must each be the right one of 9 questions"):
        task_of_questions(questions, questions)


@pytest.fixture
def photographs(tmp_path):
    for label, level in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            picture = np.full((20, 30, 3), level + number, np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / label / f"{number}.png")
    (tmp_path / "photos/dark/0.png").write_bytes(b"no picture")
    return source_config(f"folder:{tmp_path}/photos?held_out=0.3")


@pytest.mark.filterwarnings("ignore:.*cannot be read and are left out")
def test_pictures_with_labels(photographs, model):
    options = OPTIONS | {"transform": PlaceConfig(strength=1)}
    task = load_named_task("labels", data=photographs, **options)
    assert task.objective.classes == ("dark", "light")
    assert len(task.train) + len(task.dev) + len(task.tests[""]) == 39
    assert task.transform == PlaceConfig(strength=1)
    inputs, rows = task.train.inputs, task.train.rows[:4]
    assert isinstance(inputs, LabelledPictures)
    same = [inputs.pooled(model, rows) for _ in range(2)]
    changed = inputs.pooled(model, rows, np.random.default_rng(0))
    assert torch.equal(*same)
    assert not torch.equal(same[0], changed)
    labels = [inputs.labelled.source[int(inputs.labelled.rows[row])].labels for row in task.dev.rows]
    assert [label for (label,) in labels] == [
        task.objective.classes[n] for n in task.dev.targets[task.dev.rows]
    ]


def test_a_broken_picture_is_named(photographs):
    with pytest.warns(UserWarning, match=r"1 of \d+ pictures cannot be read and are left out, such as .*0"):
        load_named_task("labels", data=photographs, **OPTIONS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*cannot be read and are left out")
@pytest.mark.parametrize("name", ["labels", "vqa"])
def test_pictures_and_questions_are_trained_on(photographs, vqa2, model, tmp_path, name):
    given = {"labels": {"data": photographs}, "vqa": {"root": str(vqa2)}}[name]
    task = load_named_task(name, **given, **OPTIONS)
    tuned = FineTuned(model, About.of(task))
    config = FinetuneConfig(learning_rate=3e-3, batch_size=16, epochs=10)
    ended = finetune(tuned, task, config, RunFolder(tmp_path))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    if name == "labels":  # a dark or a light picture
        assert ended.tests[""]["accuracy"] > ended.test_guessing[""]["accuracy"] + 20


@pytest.mark.parametrize("name", FETCHED)
def test_texts_that_are_fetched(texts, name):  # noqa: F811 - the fixture
    task = load_named_task(name, root=str(texts), **OPTIONS)
    assert min(len(part) for part in (task.train, task.dev, *task.tests.values())) > 0
    assert isinstance(task.objective, Regression if name in ("rating", "relatedness") else Classification)
    is_pair = name in ("is_a", "words_in_context", "relatedness")
    assert all((" [SEP] " in text) == is_pair for text in task.train.inputs.strings)
    main = task.objective.main
    outputs = torch.zeros(len(task.dev), task.objective.num_outputs)
    assert task.objective.metrics(outputs, task.dev.targets, task.dev.rows, main_only=True).keys() == {main}


def write_table(file, columns, rows):
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(columns)
        writer.writerows(rows)
    return str(file)


def test_a_table_of_own_texts(tmp_path):
    rows = [(f"text {n}", f"other {n}", ("bad", "good")[n % 2]) for n in range(60)]
    file = write_table(tmp_path / "reviews.csv", ("text", "second", "label"), rows)
    task = load_named_task("texts", data=file, **OPTIONS)
    assert task.name == "reviews"
    assert task.objective.classes == ("bad", "good")
    parts = [task.train, task.dev, task.tests[""]]
    assert sum(map(len, parts)) == 60
    assert all(" [SEP] other" in text for part in parts for text in part.inputs.strings)
    # A text keeps its part when others join.
    longer = write_table(
        tmp_path / "reviews.csv", ("text", "second", "label"), [*rows, ("new", "one", "bad")]
    )
    assert set(task.train.inputs.strings) <= set(
        load_named_task("texts", data=longer, **OPTIONS).train.inputs.strings
    )
    scored = write_table(tmp_path / "s.csv", ("text", "score"), [(f"text {n}", n / 7) for n in range(60)])
    assert isinstance(load_named_task("texts", data=scored, **OPTIONS).objective, Regression)


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (("words", "label"), [("a", "b")], "must have the columns text"),
        (("text",), [("a",)], "must have the columns text"),
        (("text", "label", "score"), [("a", "b", 1)], "either label or score"),
        (("text", "label"), [("a", "x"), (" ", "y")], "line 3 has no text"),
        (("text", "label"), [("a", "x"), ("b", "")], "line 3 has no label"),
        (("text", "score"), [("a", "x")], "line 2 must have a number as its score, got 'x'"),
        (("text", "score"), [("a", "nan")], "must have a number as its score"),
        (("text", "label"), [("a", "x"), ("b", "x")], "labels of two classes or more, got x"),
        (
            ("text", "second", "label"),
            [("a", "", "x"), ("b", "c", "y")],
            "either all rows must have a second",
        ),
        (("text", "label"), [("a", "x"), ("b", "y")], "has no example in its"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, columns, rows, message):
    file = write_table(tmp_path / "t.csv", columns, rows)
    with pytest.raises(UserError, match=message):
        load_named_task("texts", data=file, **OPTIONS)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("sentimental", {}, "the task must be one of sentiment, .* or glue; got 'sentimental'"),
        ("labels", {}, "the task labels needs data"),
        ("texts", {}, "the task texts needs data"),
        ("vqa", {"data": "x"}, "the task vqa takes no data"),
        ("sentiment", {"max_train": 0}, "max_train must be at least 1, got 0"),
        ("sentiment", {"max_test": -1}, "max_test must be at least 1, got -1"),
        ("vqa", {"position": "left"}, "position must be one of top, middle, bottom, got 'left'"),
        ("vqa", {"root": "nowhere"}, "cannot read nowhere"),
        ("glue/cola", {"root": "nowhere"}, "there is neither nowhere"),
        ("glue/cola", {}, "must be the folder of GLUE"),
        ("texts", {"data": "none.csv"}, "cannot read none.csv"),
    ],
)
def test_bad_input_is_refused(name, given, message):
    with pytest.raises(UserError, match=message):
        load_named_task(name, **given, **OPTIONS)


def test_scores_that_are_all_equal_are_refused(glue):
    task = load_named_task("glue/stsb", root=glue, **OPTIONS)
    with pytest.raises(UserError, match="must not all be equal"):
        replace(task.objective, std=0.0)
