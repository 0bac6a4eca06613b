import numpy as np
import pytest
import torch

from clippo.data.base import BrokenExampleError
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation.base import Estimate
from clippo.evaluation.classification_pictures import draw_confusion
from clippo.evaluation.zero_shot import ZeroShotConfig
from tests.clippo.evaluation.conftest import Labels, Told

SQUASH = SquashConfig()


def told(names, count=None, dim=None):
    """A model for which picture number i is what names[i % len(names)] says."""
    vectors = torch.eye(dim or len(names))
    texts = {name: vectors[i] for i, name in enumerate(names)}
    return Told({i: vectors[i % len(names)] for i in range(count or len(names))}, texts)


def test_a_model_that_knows_the_answers_is_right(config_of):
    source = Labels([("Tabby_Cat",), ("dog, Rex",), ("a.cow",)] * 4)
    config = ZeroShotConfig(split="held_out", names="label", prompts=("class_name_only",))
    evaluator = config.build(config_of(all=source, held_out=source), SQUASH, 2)
    metrics = evaluator(told(["tabby cat", "dog", "acow"], 12))
    assert metrics["class_name_only/top1"] == metrics["class_name_only/per_class"] == 100
    assert "class_name_only/top5" not in metrics
    assert metrics["chance/top1"] == pytest.approx(100 / 3)
    assert metrics["majority/top1"] == pytest.approx(100 / 3)
    assert isinstance(metrics["class_name_only/top1"], Estimate)
    plain = ZeroShotConfig(names="label", prompts=("class_name_only",), canonicalize=False)
    built = plain.build(config_of(all=source, held_out=source), SQUASH, 2)
    assert built(told(["Tabby Cat", "dog, Rex", "a.cow"], 12))["class_name_only/top1"] == 100
    assert built.fingerprint != evaluator.fingerprint


def test_a_model_that_knows_nothing_reaches_chance(config_of):
    source = Labels([(str(i % 8),) for i in range(250)])
    evaluator = ZeroShotConfig(split="all").build(config_of(all=source), SQUASH, 2)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(2000, 16, generator=generator), dim=1)
    texts = [
        prompt.replace("{}", str(i)) for own in evaluator.prompts.values() for prompt in own for i in range(8)
    ]
    model = Told(dict(enumerate(vectors[:250])), dict(zip(texts, vectors[250:], strict=False)))
    metrics = evaluator(model)
    for which in ("class_name_only", "short", "long"):
        for name in ("top1", "top5", "per_class"):
            value = metrics[f"{which}/{name}"]
            assert value.low <= metrics[f"chance/{name}"] <= value.high
    constant = Told(dict.fromkeys(range(250), vectors[0]), {"": vectors[1]})
    assert evaluator(constant)["long/top1"] == 0


def test_classes_are_those_of_all_examples(config_of):
    every, part = Labels([("a",), ("b",), ("c",)]), Labels([("b",), ("b", "c")])
    evaluator = ZeroShotConfig(names="label").build(config_of(all=every, held_out=part), SQUASH, 2)
    assert evaluator.names == {"": {0: "a", 1: "b", 2: "c"}}
    assert evaluator.examples.labels.tolist() == [[1, -1], [1, 2]]


def test_prompts_of_a_file_are_measured_by_its_name(config_of, tmp_path):
    (tmp_path / "mine.txt").write_text("a photo of {c}!\n{c}\n")
    (tmp_path / "en.json").write_text('{"cars": ["my {c}"]}')
    prompts = (f"{tmp_path}/mine.txt", f"{tmp_path}/en.json#cars")
    config = ZeroShotConfig(split="all", prompts=prompts)
    evaluator = config.build(config_of(all=Labels([("a",), ("b",)])), SQUASH, 2)
    assert evaluator.prompts == {"mine": ["a photo of {}", "{}"], "cars": ["my {}"]}


def test_names_are_measured_in_each_language(config_of):
    """Half of the German names are swapped, three classes have a Danish name, and the last no English one."""
    codes = [f"c{i:02}" for i in range(24)]
    texts = [{"en": f"land {i}", "de": f"das Land {i}"} | ({"da": "x"} if i < 3 else {}) for i in range(24)]
    del texts[23]["en"]
    source = Labels([(code,) for code in codes], texts)
    config = ZeroShotConfig(split="all", by_language=True, canonicalize=False)
    evaluator = config.build(config_of(all=source), SQUASH, 2)
    assert {language: len(names) for language, names in evaluator.names.items()} == {"en": 23, "de": 24}
    wrong = [f"das Land {i ^ 1 if i >= 12 else i}" for i in range(24)]
    model = told(wrong)
    model.texts |= {
        prompt.replace("{}", f"land {i}"): model.images[i]
        for own in evaluator.prompts.values() for prompt in own for i in range(24)
    }  # fmt: skip
    metrics = evaluator(model)
    assert metrics["de/class_name_only/top1"] == 50
    assert metrics["en/class_name_only/top1"] == metrics["en/long/top1"] == 100
    assert metrics["mean/class_name_only/top1"] == 75
    assert metrics["mean/long/top1"] == 100
    assert metrics["mean/long/top1"].low < 50  # one language tells little of others
    assert metrics["en/chance/top1"] == pytest.approx(100 / 23)
    assert metrics["chance/top1"] == pytest.approx((100 / 23 + 100 / 24) / 2)
    assert "de/long/top1" not in metrics
    picture = np.asarray(evaluator.picture(model))
    assert (picture == (214, 39, 40)).all(2).any()  # the marks at chance
    # Without languages a class has its English name, or else that of the first other language.
    config = ZeroShotConfig(split="all", canonicalize=False)
    names = config.build(config_of(all=source), SQUASH, 2).names[""]
    assert names[5] == "land 5"
    assert names[23] == "das Land 23"


def test_names_of_a_file_are_in_the_order_of_the_classes(config_of, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("zero\none\ntwo\n")

    def names(labels):
        config = ZeroShotConfig(split="all", names=str(file))
        return config.build(config_of(all=Labels(labels)), SQUASH, 2).names[""]

    assert names([("n02",), ("n01",), ("n10",)]) == {0: "zero", 1: "one", 2: "two"}
    assert names([("2",), ("0",)]) == {0: "zero", 1: "two"}
    with pytest.raises(UserError, match=r"names\.txt must have 2 lines, a name for each class; got 3"):
        names([("a",), ("b",)])
    with pytest.raises(UserError, match="names must be text, label or a file of names; got 'nowhere'"):
        ZeroShotConfig(split="all", names="nowhere").build(config_of(all=Labels([("a",), ("b",)])), SQUASH, 2)


def test_what_cannot_be_measured_is_refused(config_of):
    def build(labels, texts=None, **fields):
        sources = {split: Labels(labels, texts) for split in ("all", "held_out")}
        return ZeroShotConfig(**fields).build(config_of(**sources), SQUASH, 2)

    with pytest.raises(UserError, match="prompts must be one set of prompts at least, got none"):
        ZeroShotConfig(prompts=())
    with pytest.raises(UserError, match="examples must have labels of at least two classes, .*; got none"):
        build([(), ()])
    with pytest.raises(UserError, match="at least two classes, .*; got a"):
        build([("a",), ("a",)])
    with pytest.raises(UserError, match="the class a have different texts, 'x' and 'y': take names=label"):
        build([("a",), ("a",), ("b",)], [{"en": "y"}, {"en": "x"}, {"en": "z"}])
    with pytest.raises(UserError, match="the class b has no name: take names=label, or a file of names"):
        build([("a",), ("b", "a")], [{"en": "x"}, {"en": "z"}])
    with pytest.raises(UserError, match="no language has names of 20 classes or more"):
        build([("a",), ("b",)], [{"en": "x"}, {"de": "z"}], by_language=True)
    every, part = Labels([("a",), ("b",)]), Labels([()])
    with pytest.raises(UserError, match="none of 1 examples has a label that is measured"):
        ZeroShotConfig().build(config_of(all=every, held_out=part), SQUASH, 2)


def test_examples_that_cannot_be_read_are_left_out(config_of):
    class Damaged(Labels):
        def __getitem__(self, index):
            if index % 3 == 1:
                raise BrokenExampleError(str(index), "it is cut off")
            return super().__getitem__(index)

        def described(self, index):
            return Labels.__getitem__(self, index)

    evaluator = ZeroShotConfig(split="all", prompts=("class_name_only",)).build(
        config_of(all=Damaged([("a",), ("b",), ("b",), ("b",)])), SQUASH, 2
    )
    with pytest.warns(UserWarning, match="1 of 4 examples cannot be read and are left out: 1: it is cut off"):
        metrics = evaluator(told(["a", "b"], 4))
    assert metrics["class_name_only/top1"] == pytest.approx(200 / 3)


def test_the_picture_shows_what_is_taken_for_what(config_of):
    source = Labels([(f"c{i % 4}",) for i in range(12)])
    evaluator = ZeroShotConfig(split="all").build(config_of(all=source), SQUASH, 2)
    small = evaluator.picture(told(["c0", "c1", "c2", "c3"], 12))
    assert small.size[0] > 400
    names = {2 * i: f"class {i}" for i in range(60)}
    rng = np.random.default_rng(0)
    true, predicted = 2 * rng.integers(60, size=(2, 300))
    many = draw_confusion(true, predicted, names)
    assert np.asarray(many).std() > 10
    assert np.array_equal(np.asarray(draw_confusion(true, predicted, names)), np.asarray(many))
    none_wrong = draw_confusion(true, true, names)
    assert np.asarray(none_wrong).shape[2] == 3
