import numpy as np
import pytest
from scipy import stats

from clippo.errors import UserError
from clippo.evaluation.sts import SimilarityConfig, TextSimilarity
from clippo.evaluation.text_tasks import Part


def test_correlations_are_those_of_scipy(ignorant):
    rng = np.random.default_rng(0)
    texts = [tuple(f"{side}{i}" for i in range(80)) for side in "ab"]
    pairs = Part(*texts, rng.integers(3, size=80).astype(float))
    metrics = TextSimilarity(pairs)(ignorant)
    first, second = (ignorant.encode_text(side).double().numpy() for side in texts)
    cosines = (first * second).sum(1)
    assert metrics["cosine/spearman"] == pytest.approx(100 * stats.spearmanr(cosines, pairs.labels).statistic)
    assert metrics["cosine/pearson"] == pytest.approx(100 * stats.pearsonr(cosines, pairs.labels).statistic)
    assert metrics["cosine/spearman"].low < metrics["chance/spearman"] < metrics["cosine/spearman"].high


def test_a_model_that_is_handed_the_scores_scores_100(knowing):
    angles = np.linspace(0.1, 3, 30)
    known = {"same": np.array([1.0, 0.0])}
    known |= {str(i): np.array([np.cos(angle), np.sin(angle)]) for i, angle in enumerate(angles)}
    pairs = Part(("same",) * 30, tuple(map(str, range(30))), np.cos(angles))
    metrics = TextSimilarity(pairs)(knowing(known))
    assert [metrics[f"cosine/{name}"] for name in ("spearman", "pearson")] == pytest.approx([100, 100])


def test_words_that_share_letters_are_near_by_their_ngrams(texts, ignorant):
    evaluator = SimilarityConfig(path=str(texts), max_pairs=60).build(None, None, 64)
    assert len(evaluator.pairs) <= 60
    assert evaluator.fingerprint == evaluator.pairs.fingerprint
    assert evaluator(ignorant)["n-grams/spearman"] > 50


def test_bad_settings_get_one_message(texts):
    with pytest.raises(UserError, match="max_pairs must be at least 2, got 1"):
        SimilarityConfig(max_pairs=1)
    for task in ("rating", "is_a"):
        with pytest.raises(UserError, match=f"task must be one of pairs of texts with scores, got '{task}'"):
            SimilarityConfig(task=task, path=str(texts)).build(None, None, 64)
