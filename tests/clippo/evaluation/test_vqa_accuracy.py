import numpy as np
import pytest

from clippo.evaluation.vqa_accuracy import SoftTargets, answer_vocabulary, normalize_answer, vqa_accuracy

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # White space
        ("  red\tcar\n", "red car"),
        ("red \n\t  car", "red car"),
        ("", ""),
        # Punctuation that touches no space becomes one, and that which does goes
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("a -5 b", "5 b"),
        ("well-lit, warm", "well lit warm"),
        ("x-y -z", "xy z"),  # one "-" beside a space takes the others along
        ("[yes]", "yes"),
        ("(2+2)=4?!", "2 2 4"),
        ('"stop"', "stop"),
        ("a_b@c`d<e>f{g}h\\i;j", "b c d e f g h i j"),  # the first word is an article
        ("5:30", "5:30"),
        ("dog's", "dog's"),
        # Commas between digits, which take all other marks along
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        ("red,blue", "red blue"),
        ("3,a", "3"),
        # Periods
        ("U.S.", "us"),
        ("3.50", "3.50"),
        ("3.", "3"),
        (".5", ".5"),
        ("mr. x.y", "mr xy"),
        ("v.2", "v.2"),
        ("." * 40, "." * 8),
        # Case, numbers and articles
        ("Yes", "yes"),
        ("Two", "2"),
        ("none zero one three four five six seven eight nine ten", "0 0 1 3 4 5 6 7 8 9 10"),
        ("twenty one", "twenty 1"),
        ("eleven", "eleven"),
        ("A man on the horse, an owl", "man on horse owl"),
        ("the", ""),
        # Contractions
        ("dont", "don't"),
        ("DONT", "don't"),
        ("don't", "don't"),
        ("couldntve", "couldntve"),  # of two apostrophes one must be there
        ("couldnt've couldn'tve", "couldn't've couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("twas 5 oclock", "'twas 5 o'clock"),
        ("its", "its"),
        ("im ive", "im ive"),  # the official entries have a capital I, and never apply
        ("somebody'd", "somebodyd"),
    ],
)
def test_each_rule_of_normalisation(answer, expected):
    assert normalize_answer(answer) == expected


def leave_one_out(answer: str, answers: list[str]) -> float:
    """The definition, for answers that need no normalisation."""
    parts = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
    return float(np.mean([min(1, part.count(answer) / 3) for part in parts]))


def test_the_accuracy_is_a_mean_over_subsets():
    for _ in range(300):
        answers = RNG.choice(["cat", "dog", "owl", "2"], 10, p=RNG.dirichlet(np.ones(4))).tolist()
        for answer in ("cat", "2", "hen"):
            assert vqa_accuracy(answer, answers) == pytest.approx(leave_one_out(answer, answers), abs=1e-12)
    scores = [vqa_accuracy("cat", ["cat"] * count + ["dog"] * (10 - count)) for count in range(6)]
    assert scores == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])


def test_answers_are_normalised_where_people_disagree():
    assert vqa_accuracy("Two.", ["2"] * 9 + ["two"]) == 1
    assert vqa_accuracy("t shirt", ["t-shirt"] * 9 + ["shirt"]) == 1
    assert vqa_accuracy("", ["the"] * 5 + ["a"] * 5) == 1
    # The official code compares what all agree on as it is, but for white space and case.
    assert vqa_accuracy("t shirt", ["t-shirt"] * 10) == 0
    assert vqa_accuracy(" T-Shirt\n", ["t-shirt"] * 10) == 1
    assert vqa_accuracy("two", ["2"] * 10) == 0


def test_one_answer_counts_as_if_all_had_given_it():
    assert (vqa_accuracy("Yes", ["yes"]), vqa_accuracy("no", ["yes"])) == (1, 0)
    with pytest.raises(ValueError, match="answers must not be empty"):
        vqa_accuracy("yes", [])


def test_the_vocabulary_has_the_frequent_answers():
    answers = ["yes"] * 5 + ["t-shirt"] * 2 + ["t shirt"] + ["b"] * 3 + ["c"] * 3 + ["rare"] * 2 + ["Yes "]
    assert answer_vocabulary(answers, min_count=3) == ["yes", "b", "c", "t-shirt"]
    assert answer_vocabulary(answers) == []
    assert answer_vocabulary([]) == []


def test_soft_targets_are_accuracies():
    words = ["cat", "Cat", "two", "2", "t-shirt", "t shirt", "the", "owl"]
    vocabulary = ["2", "cat", "t-shirt", "hen"]
    answers = [RNG.choice(words[: 1 + i % 8], 10).tolist() for i in range(200)] + [["owl"] * 10, ["cat"]]
    targets = SoftTargets(answers, vocabulary)
    expected = [[vqa_accuracy(word, given) for word in vocabulary] for given in answers]
    assert len(targets) == 202
    order = RNG.permutation(202)
    np.testing.assert_allclose(targets.rows(order), np.array(expected)[order], atol=1e-6)
    assert targets.rows(np.array([], np.int64)).shape == (0, 4)
    assert SoftTargets([], vocabulary).rows(np.array([], np.int64)).shape == (0, 4)
