import json

import numpy as np
import pytest

from clippo.data.convert import png
from clippo.data.decode import pixels_of
from clippo.data.spec import source_config
from clippo.errors import UserError
from tests.clippo.data.conftest import split_image

# As the files have them, with the fields that are not read.
COCO = {
    "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
    "images": [
        {"license": 3, "file_name": "COCO_val2014_000000000042.jpg", "height": 478, "width": 640, "id": 42,
         "date_captured": "2013-11-18 09:35:21", "coco_url": "http://images.cocodataset.org/val2014/1.jpg"},
        {"license": 1, "file_name": "COCO_val2014_000000000073.jpg", "height": 565, "width": 640, "id": 73},
        {"license": 1, "file_name": "COCO_val2014_000000000074.jpg", "height": 565, "width": 640, "id": 74},
    ],
    "licenses": [{"id": 1, "name": "Attribution-NonCommercial-ShareAlike License"}],
    "annotations": [
        {"image_id": 73, "id": 771, "caption": "A motorcycle in a garage. "},
        {"image_id": 42, "id": 641, "caption": "Shoes, and a dog on them."},
        {"image_id": 73, "id": 772, "caption": "An old\nmotorcycle."},
        {"image_id": 1, "id": 773, "caption": "A picture that is not among these."},
    ],
}  # fmt: skip


KARPATHY = {
    "dataset": "coco",
    "images": [
        split_image(1, "test", filepath="val2014", filename="COCO_val2014_000000000001.jpg", cocoid=1),
        split_image(2, "restval", filepath="val2014", filename="COCO_val2014_000000000002.jpg", cocoid=2),
        split_image(3, "train", filepath="train2014", filename="COCO_train2014_000000000003.jpg", cocoid=3),
    ],
}
FLICKR = {"dataset": "flickr30k", "images": [split_image(7, "test", filename="1007129816.jpg")]}


def write(file, content) -> str:
    file.write_text(json.dumps(content), encoding="utf-8")
    return str(file)


def texts_of(spec) -> dict[str, list[tuple[str, str | None]]]:
    source = source_config(spec).build("all", image_size=0)
    return {
        source.records.keys[row]: [(t.text, t.language) for t in source.records.texts_of(row)]
        for row in range(len(source))
    }


def test_captions_of_coco(tmp_path):
    file = write(tmp_path / "captions_val2014.json", COCO)
    assert texts_of(f"coco:{file}?images=val2014") == {
        "COCO_val2014_000000000042": [("Shoes, and a dog on them.", "en")],
        "COCO_val2014_000000000073": [("A motorcycle in a garage.", "en"), ("An old motorcycle.", "en")],
    }
    [[(text, language)], _] = texts_of(f"coco:{file}?language=ja").values()
    assert (text, language) == ("Shoes, and a dog on them.", "ja")


def test_the_splits_of_karpathy(tmp_path):
    coco, flickr = write(tmp_path / "coco.json", KARPATHY), write(tmp_path / "flickr.json", FLICKR)
    first = "val2014/COCO_val2014_000000000001"
    assert list(texts_of(f"coco:{coco}")) == [
        first, "val2014/COCO_val2014_000000000002", "train2014/COCO_train2014_000000000003",
    ]  # fmt: skip
    assert texts_of(f"coco:{coco}?parts=test") == {
        first: [("A picture of 1.", "en"), ("The number 1.", "en")]
    }
    assert len(texts_of(f"coco:{coco}?parts=train,restval")) == 2
    assert list(texts_of(f"coco:{flickr}?parts=test")) == ["1007129816"]


@pytest.mark.parametrize("query", ["", "?images={folder}", "?images={folder}/"])
def test_pictures_are_in_their_folder(tmp_path, query):
    """That of the file, or another one."""
    folder = tmp_path / "pictures"
    (folder / "val2014").mkdir(parents=True)
    pixels = np.full((5, 7, 3), 90, np.uint8)
    (folder / "val2014" / "COCO_val2014_000000000001.jpg").write_bytes(png(pixels))
    file = write((tmp_path if query else folder) / "dataset_coco.json", KARPATHY)
    source = source_config(f"coco:{file}{query.format(folder=folder)}").build("all", image_size=0)
    assert (pixels_of(source[0]) == pixels).all()


@pytest.mark.parametrize(
    ("content", "query", "message"),
    [
        ([], "", r"x\.json must be an object with 'images', a list; got \[\]"),
        ({"images": 3}, "", r"x\.json must be an object with 'images', a list; got \{'images': 3\}"),
        ({"images": [3]}, "", r"x\.json, images\[0\] must be an object, got 3"),
        ({"images": [{}]}, "", r"x\.json, images\[0\] must be an object with 'filename', a str; got \{\}"),
        ({**COCO, "annotations": [{}]}, "", r"annotations\[0\] must be an object with 'caption', a str"),
        ({**COCO, "images": [{"id": 1}]}, "", r"images\[0\] must be an object with 'file_name', a str"),
        ({"images": [{"filename": "1.jpg"}]}, "", r"images\[0\] must be an object with 'sentences', a list"),
        ({"images": [split_image(1, "x", filename="../1.jpg")]}, "", r"picture \.\./1\.jpg is not in "),
        (FLICKR, "?parts=val", r"parts must be among those of the file, test; got 'val'"),
        (COCO, "?parts=val", r"parts must be among those of the file, none; got 'val'"),
        ({"images": [], "annotations": []}, "", "holds no example with a text"),
    ],
)
def test_broken_files_name_the_place(tmp_path, content, query, message):
    with pytest.raises(UserError, match=message):
        texts_of(f"coco:{write(tmp_path / 'x.json', content)}{query}")


def test_what_is_no_json(tmp_path):
    (tmp_path / "x.json").write_bytes(b'{"images": "caf\xe9"}')
    with pytest.raises(UserError, match=r"x\.json must be JSON: "):
        texts_of(f"coco:{tmp_path}/x.json")
    with pytest.raises(UserError, match=r"cannot read .*none\.json: No such file"):
        texts_of(f"coco:{tmp_path}/none.json")
