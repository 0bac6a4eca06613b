import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from clippo.evaluation.classification import accuracies, guessing, padded, ranks


def test_accuracies_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.choice(12, size=400, p=np.arange(1, 13) / 78)
    scores = rng.normal(size=(400, 12)) + 2 * np.eye(12)[y]
    labels = padded([[label] for label in y])
    found = accuracies(ranks(scores, labels), labels, 12)
    assert found["top1"] == pytest.approx(100 * accuracy_score(y, scores.argmax(1)))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(y, scores, k=5))
    assert found["per_class"] == pytest.approx(100 * balanced_accuracy_score(y, scores.argmax(1)))
    assert all(value.low < value < value.high for value in found.values())
    guessed = guessing(labels, 12)
    assert guessed["chance/top1"] == guessed["chance/per_class"] == pytest.approx(100 / 12)
    assert guessed["chance/top5"] == pytest.approx(500 / 12)
    assert guessed["majority/top1"] == pytest.approx(100 * np.bincount(y).max() / 400)


def test_any_of_several_labels_is_right():
    rng = np.random.default_rng(0)
    own = [rng.choice(9, size=rng.integers(1, 4), replace=False).tolist() for _ in range(300)]
    labels, scores = padded(own), rng.normal(size=(300, 9))
    found = accuracies(ranks(scores, labels), labels, 9)
    right = np.array([scores[i].argmax() in one for i, one in enumerate(own)])
    assert found["top1"] == pytest.approx(100 * right.mean())
    among = [bool(set(scores[i].argsort()[-5:]) & set(one)) for i, one in enumerate(own)]
    assert found["top5"] == pytest.approx(100 * np.mean(among))
    per_class = [right[[label in one for one in own]].mean() for label in range(9)]
    assert found["per_class"] == pytest.approx(100 * np.mean(per_class))
    guessed = guessing(labels, 9)
    assert guessed["chance/top1"] == pytest.approx(100 * np.mean([len(one) / 9 for one in own]))
    drawn = np.stack([ranks(rng.normal(size=(300, 9)), labels) for _ in range(50)], axis=1)
    for name, k in {"top1": 1, "top5": 5}.items():
        assert 100 * (drawn <= k).mean() == pytest.approx(guessed[f"chance/{name}"], rel=0.05)
    hits = (drawn <= 1).mean(1)
    per_class = np.mean([hits[[label in one for one in own]].mean() for label in range(9)])
    assert guessed["chance/per_class"] == pytest.approx(100 * per_class, rel=0.05)


def test_what_ties_or_is_no_number_is_not_right():
    labels = padded([[0], [1, 2], [2]])
    assert ranks(np.zeros((3, 3)), labels).tolist() == [3, 2, 3]
    assert ranks(np.full((3, 3), np.nan), labels).tolist() == [3, 2, 3]
    assert ranks(np.array([[np.nan, 1, 0], [0, 0, 1], [1, np.nan, 2]]), labels).tolist() == [3, 1, 2]
    assert ranks(np.zeros((3, 5))[:, :3], padded([[0, 1, 2]] * 3)).tolist() == [1, 1, 1]


def test_classes_without_examples_do_not_count():
    labels = padded([[1], [1], [4]])
    found = accuracies(np.array([1, 2, 1]), labels, 6)
    assert found["per_class"] == 75
    assert "top5" in found
    assert "top5" not in accuracies(np.array([1, 2, 1]), labels, 5)
    assert guessing(labels, 6)["chance/per_class"] == pytest.approx(100 / 6)
    assert guessing(labels, 6)["majority/top1"] == pytest.approx(200 / 3)
