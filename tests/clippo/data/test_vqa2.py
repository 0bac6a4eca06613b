import json
import shutil

import pytest

from clippo.data.questions import Question
from clippo.data.vqa2 import Vqa2Config
from clippo.errors import UserError


def test_questions_are_read_in_the_layout_of_vqa_v2(vqa2_root):
    train = Vqa2Config(root=str(vqa2_root)).build("train", 64)
    answers = ["net"] * 6 + ["netting", "net", "mesh", "a net"]
    assert len(train) == 3
    assert train.asked[0] == Question("9000", "9", "What is 9000?", tuple(answers), "net", "other")
    assert [question.kind for question in train.asked] == ["other", "yes_no", "other"]
    assert train.asked[2].picture == "131074"
    assert train.image(1).shape == (30, 40, 3)  # grey photographs become RGB
    held_out = Vqa2Config(root=str(vqa2_root)).build("held_out", 64)
    assert [question.key for question in held_out.asked] == ["42000"]
    assert (held_out.image(0) == 42).all()
    assert train.fingerprint != held_out.fingerprint


def test_what_is_missing_is_named(vqa2_root, tmp_path):
    with pytest.raises(UserError, match=r"questions\.root must be the folder"):
        Vqa2Config(root="")
    with pytest.raises(UserError, match=r"nowhere/v2_OpenEnded_mscoco_train2014_questions\.json"):
        Vqa2Config(root=str(tmp_path / "nowhere")).build("train", 64)
    photograph = vqa2_root / "train2014" / "COCO_train2014_000000000009.jpg"
    opened = Vqa2Config(root=str(vqa2_root)).build("train", 64)
    photograph.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read the photograph .*000009\.jpg: not a picture"):
        opened.image(0)
    photograph.unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 2 photographs, such as COCO_train2014_000000000009"):
        Vqa2Config(root=str(vqa2_root)).build("train", 64)
    shutil.rmtree(vqa2_root / "train2014")
    with pytest.raises(UserError, match="lacks 2 of 2 photographs"):
        Vqa2Config(root=str(vqa2_root)).build("train", 64)


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"questions": []}', '{"questions": {}}'])
def test_files_of_another_layout_are_refused(vqa2_root, content):
    (vqa2_root / "v2_OpenEnded_mscoco_train2014_questions.json").write_text(content)
    with pytest.raises(UserError, match=r"v2_OpenEnded_mscoco_train2014_questions\.json"):
        Vqa2Config(root=str(vqa2_root)).build("train", 64)


@pytest.mark.parametrize(
    ("lost", "reason"),
    [("question", "KeyError: 131074000"), ("answers", "KeyError: 'answers'"), ("number", "x")],
)
def test_an_annotation_that_lacks_something_is_refused(vqa2_root, lost, reason):
    name = "questions" if lost == "question" else "annotations"
    file = vqa2_root / f"v2_{'OpenEnded_' * (name == 'questions')}mscoco_train2014_{name}.json"
    content = json.loads(file.read_text())
    if lost == "question":
        del content[name][0]
    elif lost == "answers":
        del content[name][0]["answers"]
    else:
        content[name][0]["image_id"] = "x"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"train2014 in .* are not in the layout of VQA v2.*{reason}"):
        Vqa2Config(root=str(vqa2_root)).build("train", 64)
