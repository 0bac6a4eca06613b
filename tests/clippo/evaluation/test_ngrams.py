"""Character n-grams against scikit-learn."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.kernel_ridge import KernelRidge

from clippo.evaluation.ngrams import SIZE, TfIdf, bags_of, cosines, kernel_ridge, ngrams
from clippo.evaluation.text_tasks import Part

TEXTS = ["Abba", "abba", "ab ba", "👍🏽é", "", "xy" * 100, "ba"]


def test_cosines_are_those_of_scikit_learn(monkeypatch):
    monkeypatch.setattr("clippo.evaluation.ngrams.BLOCK", 3)
    oracle = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    fitted, others = TEXTS[:4], TEXTS[4:]
    expected = oracle.fit_transform(f" {text} " for text in fitted)
    vectors = TfIdf([ngrams(text) for text in fitted])
    known = vectors([ngrams(text) for text in fitted])
    assert cosines(known, known) == pytest.approx((expected @ expected.T).toarray(), abs=1e-6)
    # scikit-learn leaves out the n-grams that it has not seen, without which a vector has another length.
    found = cosines(vectors([ngrams(text) for text in others]), known)
    wanted = (oracle.transform(f" {text} " for text in others) @ expected.T).toarray()
    highest = (values.max(1, keepdims=True) for values in (found, wanted))
    assert found / next(highest) == pytest.approx(wanted / next(highest), abs=1e-6)


def test_pairs_have_the_ngrams_of_either_text_and_what_both_have():
    [bag] = bags_of(Part(("aab",), ("ab",), np.zeros(1)))
    one, two = ngrams("aab"), ngrams("ab")
    parts = [bag.features // SIZE == side for side in range(3)]
    assert bag.features[parts[0]].tolist() == one.features.tolist()
    assert (bag.features[parts[1]] - SIZE).tolist() == two.features.tolist()
    assert bag.counts[parts[1]].tolist() == two.counts.tolist()
    shared = sorted(set(one.features) & set(two.features))
    assert (bag.features[parts[2]] - 2 * SIZE).tolist() == shared
    assert bag.counts[parts[2]].sum() == len(" ab ") + len([" a", "ab", "b "]) + len(["ab "])


@pytest.mark.parametrize("shape", [(20,), (20, 3)])
def test_kernel_ridge_is_that_of_scikit_learn(shape):
    rng = np.random.default_rng(0)
    x, y, other = rng.normal(size=(20, 6)), rng.normal(size=shape), rng.normal(size=(5, 6))
    fit = KernelRidge(alpha=0.3, kernel="precomputed").fit(x @ x.T, y - y.mean(0))
    found = kernel_ridge(x @ x.T, y, l2=0.3)(other @ x.T)
    np.testing.assert_allclose(found, fit.predict(other @ x.T) + y.mean(0))
