from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy import ndimage

from clippo.data.convert import png
from clippo.data.dictionary import DictionaryConfig
from clippo.data.fetch import dictionary
from clippo.data.made_questions import COLOURS, CONTINENTS, KINDS, MadeQuestionsConfig, dominant_colour
from clippo.errors import UserError
from clippo.renderer import AlignedRenderer

RGB = {
    "black": (5, 5, 5), "blue": (20, 60, 200), "green": (30, 160, 50), "orange": (250, 140, 20),
    "red": (220, 30, 40), "white": (250, 250, 250), "yellow": (250, 220, 30),
}  # fmt: skip
OTHERS = {"grey": (128, 128, 128), "purple": (120, 40, 200), "pink": (240, 60, 180), "brown": (120, 70, 30)}
SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture dictionary of squares, each of one colour; a picture's number tells its colour."""
    folder = tmp_path_factory.mktemp("dictionary")
    entries = defaultdict(list)
    for name in (name for classes in KINDS.values() for name in classes if name != "flags/"):
        collection, label = name.split("/")
        for number in range(42):
            key, color = f"{label}/{number}", RGB[COLOURS[number % 7]]
            square = png(np.full((9, 9, 3), color, np.uint8))
            entries[collection].append(dictionary.Entry(key, "png", square, {"en": "some face"}, label))
    for code in (code for codes in CONTINENTS.values() for code in codes):
        flag = png(np.full((6, 8, 3), RGB["red"], np.uint8))
        entries["flags"].append(dictionary.Entry(code, "png", flag, {"en": f"flag {code}"}))
    for name, listed in entries.items():
        dictionary.write(folder / f"{name}.tar", listed)
    return folder


@pytest.fixture(scope="module")
def splits(folder):
    config = MadeQuestionsConfig(path=str(folder), train=140, held_out=28)
    return {split: config.build(split, SIZE) for split in ("train", "held_out")}


@pytest.mark.slow
@pytest.mark.parametrize(("split", "count"), [("train", 140), ("held_out", 28)])
def test_every_answer_is_right_equally_often(splits, split, count):
    answers = defaultdict(Counter)
    for question in splits[split].asked:
        answers[question.kind][question.answer] += 1
    possible = {
        "kind": KINDS,
        "colour": COLOURS,
        "continent": CONTINENTS,
        "count": "1234",
        "yes_no": ["yes", "no"],
    }
    for kind, expected in possible.items():
        assert answers[kind] == Counter(dict.fromkeys(expected, count // len(expected)))


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_neither_the_question_nor_the_picture_alone_tells_the_answer(splits, split):
    questions = splits[split]
    of_text, of_picture = defaultdict(Counter), defaultdict(Counter)
    copies = defaultdict(set)
    for question, (_, count) in zip(questions.asked, questions.pictures, strict=True):
        of_text[question.text][question.answer] += 1
        if question.kind in ("count", "yes_no"):
            of_picture[question.kind, question.picture][question.answer] += 1
        copies[question.kind].add(count)
    assert len(of_text) == 4 + len(KINDS)
    assert all(len(set(counts.values())) == 1 and len(counts) > 1 for counts in of_text.values())
    assert all(len(set(counts.values())) == 1 and len(counts) > 1 for counts in of_picture.values())
    assert all(counts == {1, 2, 3, 4} for counts in copies.values())


def test_answers_are_right(splits):
    for questions in splits.values():
        for index, question in enumerate(questions.asked):
            name = question.picture.split("/")
            own = "flags/" if name[0] == "flags" else "/".join(name[:2])
            thing = next(thing for thing, classes in KINDS.items() if own in classes)
            match question.kind:
                case "kind":
                    assert question.answer == thing
                case "colour":
                    is_flag = name[0] == "flags"
                    assert question.answer == ("red" if is_flag else COLOURS[int(name[2]) % 7])
                case "continent":
                    assert name[1] in CONTINENTS[question.answer]
                case "yes_no":
                    assert (thing in question.text) == (question.answer == "yes")
                case "count":
                    ink = (questions.image(index) != 127).any(-1)
                    assert ndimage.label(ink)[1] == int(question.answer)
            assert question.answers == (question.answer,)


def test_pictures_that_are_held_out_are_not_trained(splits, folder):
    pictures = {
        split: {question.picture for question in questions.asked} for split, questions in splits.items()
    }
    for split, keys in pictures.items():
        source = DictionaryConfig(path=str(folder)).build(split)
        assert keys <= {source.records.keys[row] for row in source.rows}


def test_questions_are_a_function_of_the_seed(splits, folder):
    def build(seed):
        return MadeQuestionsConfig(path=str(folder), train=140, held_out=28, seed=seed).build(
            "held_out", SIZE
        )

    questions, again, others = splits["held_out"], build(0), build(1)
    assert questions.asked == again.asked
    assert questions.asked != others.asked
    for index in (5, 3, len(questions) - 1):
        image = questions.image(index)
        assert image.shape == (SIZE, SIZE, 3)
        np.testing.assert_array_equal(image, again.image(index))
    assert questions.fingerprint == again.fingerprint != others.fingerprint


def test_questions_are_read_whole_by_a_model_of_64_px(splits):
    texts = list({question.text for question in splits["train"].asked})
    report = AlignedRenderer(64).render(texts, patch_size=16)[1]
    assert max(report.height) <= 32  # what is longer than half of the image would be cut


def test_continents_have_different_flags():
    codes = [code for codes in CONTINENTS.values() for code in codes]
    assert len(set(codes)) == len(codes) == 234
    assert {"de", "jp", "us", "ke", "nz"} < set(codes)


@pytest.mark.parametrize("name", [*RGB, *OTHERS])
def test_colours_have_their_names(name):
    pixels = np.full((10, 10, 4), (*(RGB | OTHERS)[name], 255), np.uint8)
    assert dominant_colour(pixels) == dominant_colour(pixels[..., :3]) == name
    half_clear = (pixels.astype(int) * 160 // 255).astype(np.uint8)  # premultiplied
    assert dominant_colour(half_clear) == name
    other = RGB["blue" if name != "blue" else "red"]
    pixels[:, :5, :3] = other
    assert dominant_colour(pixels) is None
    pixels[0, 0] = 0  # a transparent pixel does not count
    assert dominant_colour(pixels) == name
    assert dominant_colour(np.zeros_like(pixels)) is None


def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"questions\.held_out must be at least 14, got 13"):
        MadeQuestionsConfig(held_out=13)
    square = dictionary.Entry("cow", "png", png(np.zeros((4, 4, 3), np.uint8)), {"en": "cow"}, "animals")
    for name in ("stamps", "drawings", "flags", "noto"):
        dictionary.write(tmp_path / f"{name}.tar", [square])
    with pytest.raises(UserError, match="has no picture of face in its part train"):
        MadeQuestionsConfig(path=str(tmp_path)).build("train", SIZE)
