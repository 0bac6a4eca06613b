"""The official accuracy of visual question answering (Antol et al., arXiv 1505.00468), as of VQA v2.

Ten people have answered each question. An answer counts min(matches / 3, 1), where the matches are those of
nine of them, and the accuracy is the mean over the ten ways to leave one of them out. Before answers are
compared they are normalised; the rules are those of the official code, with its oddities, because figures
are comparable only so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

__all__ = ["SoftTargets", "answer_vocabulary", "normalize_answer", "vqa_accuracy"]

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # ":" and "'" are not among them
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MAX_PERIODS = 32  # that are taken out; the official code passes a flag of this value in place of a count
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
ARTICLES = {"a", "an", "the"}

CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've
    mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
    y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()


def without_one_apostrophe(word: str) -> list[str]:
    """The ways to spell a word in which one of its apostrophes is missing."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


# One of the official entries takes an apostrophe away.
CONTRACTIONS = {wrong: word for word in CONTRACTED for wrong in without_one_apostrophe(word)} | {
    "somebody'd": "somebodyd"
}


def cleaned(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=2**16)
def normalize_answer(answer: str) -> str:
    """Normalise an answer by the official rules, in this order.

    1. Line ends and tabs become spaces, and those at the ends go.
    2. A punctuation mark goes if it stands beside a space somewhere in the answer, and becomes a space if
       not. Where a comma stands between digits, as in "1,000", all marks go.
    3. Periods go, but for those before a digit.
    4. Letters become lower case, and runs of white space one space.
    5. "none", "zero" and the numbers from one to ten become digits.
    6. The articles a, an and the go.
    7. Contractions get the one apostrophe that they lack: "dont" becomes "don't".
    """
    answer = out = cleaned(answer)
    has_number = COMMA_IN_NUMBER.search(answer)
    for mark in PUNCTUATION:
        goes = has_number or f"{mark} " in answer or f" {mark}" in answer
        out = out.replace(mark, "" if goes else " ")
    out = PERIOD.sub("", out, count=MAX_PERIODS)
    words = [NUMBERS.get(word, word) for word in out.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """The accuracy of an answer, from 0 to 1.

    Args:
        answer: of a model.
        answers: of the people who were asked, ten in VQA v2; or the one right answer, which counts as if
            all had given it. Where people agree to the letter, only white space and case are normalised, as
            in the official code.

    Raises:
        ValueError: there are no answers.
    """
    if not answers:
        raise ValueError("answers must not be empty")
    given = [cleaned(one) for one in answers]
    if len(set(given)) > 1:
        matches = [normalize_answer(one) for one in given].count(normalize_answer(answer))
    else:
        matches = len(given) * (given[0].lower() == cleaned(answer).lower())
    if len(given) == 1:
        return float(matches)
    # Of the subsets without one person, `matches` lack a match, and the others have them all.
    others = len(given) - matches
    return (matches * min((matches - 1) / 3, 1) + others * min(matches / 3, 1)) / len(given)


def answer_vocabulary(answers: Iterable[str], min_count: int = 9) -> list[str]:
    """The answers that a model chooses from, most frequent first.

    Args:
        answers: the most frequent answer of each question of the training part.
        min_count: how often an answer must come. 9, on the training and validation parts of VQA v2, gives
            the 3,129 answers that are used since Teney et al. (arXiv 1708.02711).

    Returns:
        One spelling, the most frequent, of each answer that differs from others once it is normalised.
    """
    spellings: dict[str, Counter[str]] = {}
    for answer in answers:
        spellings.setdefault(normalize_answer(answer), Counter())[cleaned(answer)] += 1
    ranked = sorted(spellings.items(), key=lambda item: (-item[1].total(), item[0]))
    return [
        min(found, key=lambda spelling: (-found[spelling], spelling))
        for _, found in ranked
        if found.total() >= min_count
    ]


class SoftTargets:
    """The accuracy of each answer of a vocabulary, as the target of each question in training.

    Args:
        answers: of N questions, each as for `vqa_accuracy`.
        vocabulary: V answers that differ once they are normalised.
    """

    def __init__(self, answers: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> None:
        number = {normalize_answer(answer): index for index, answer in enumerate(vocabulary)}
        self.num_answers = len(vocabulary)
        columns: list[int] = []
        scores: list[float] = []
        ends = [0]
        for given in answers:
            # No other answer of the vocabulary can match one of these.
            for column in {number.get(normalize_answer(one), -1) for one in given} - {-1}:
                columns.append(column)
                scores.append(vqa_accuracy(vocabulary[column], given))
            ends.append(len(columns))
        self.columns, self.ends = np.array(columns, np.int64), np.array(ends)
        self.scores = np.array(scores, np.float32)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def rows(self, questions: np.ndarray) -> np.ndarray:
        """The targets of some questions, given by index: (B, V) float32, from 0 to 1."""
        out = np.zeros((len(questions), self.num_answers), np.float32)
        counts = self.ends[questions + 1] - self.ends[questions]
        row = np.repeat(np.arange(len(questions)), counts)
        entry = np.repeat(self.ends[questions] - np.cumsum(counts) + counts, counts) + np.arange(len(row))
        out[row, self.columns[entry]] = self.scores[entry]
        return out
