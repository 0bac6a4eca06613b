import json

import numpy as np
import pytest

from clippo.data.convert import png
from clippo.data.decode import pixels_of
from clippo.data.spec import source_config
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import create_model


def row(number: int, **captions: list[str]):
    """A line as the file has it, with the fields that are not read."""
    by_language = {
        code: {
            "caption": texts,
            "caption/tokenized": [text.replace(".", " .") for text in texts],
            "caption/tokenized/lowercase": [text.lower().replace(".", " .") for text in texts],
        }
        for code, texts in captions.items()
    }
    return {"image/key": f"{number:016x}", "image/locale": "quz", **by_language}


@pytest.fixture
def folder(tmp_path):
    """20 pictures with two captions in German and one in Thai, of which half have one in Maori."""
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(20):
        pixels = np.full((6, 6, 3), 10 * number, np.uint8)
        (tmp_path / "images" / f"{number:016x}.jpg").write_bytes(png(pixels))
        maori = {"mi": [f"He ngeru {number}."]} if number % 2 else {"mi": []}
        rows.append(
            row(number, de=[f"Eine Katze {number}.", f"{number} Hunde."], th=[f"แมว {number}"], **maori)
        )
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    (tmp_path / "captions.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_captions_have_their_languages(folder):
    source = source_config(f"xm3600:{folder}/captions.jsonl").build("all", image_size=0)
    assert len(source) == 20
    example = source[3]
    assert example.key == "0000000000000003"
    assert (pixels_of(example) == 30).all()
    assert [(text.text, text.language) for text in example.texts] == [
        ("Eine Katze 3.", "de"), ("3 Hunde.", "de"), ("แมว 3", "th"), ("He ngeru 3.", "mi"),
    ]  # fmt: skip
    elsewhere = source_config(f"xm3600:{folder}/captions.jsonl?images={folder}/images/")
    assert elsewhere.build("all", image_size=0)[3].image == example.image


def test_retrieval_by_language(folder):
    data = source_config(f"xm3600:{folder}/captions.jsonl")
    config = RetrievalConfig(queries="all", candidates="all", data=data)
    model = create_model("clippo-mu16", image_size=32, embed_dim=8).eval()
    metrics = config.build(data, SquashConfig(), 32)(model)
    assert {name.partition("/")[0] for name in metrics} == {"chance", "mean", "de", "th"}
    assert metrics["de/chance/R@1"] == pytest.approx(5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"de": {"caption": ["Eine Katze."]}}, "line 1: 'image/key' must be a string, got None"),
        ({"image/key": "../x", "de": {"caption": ["Eine Katze."]}}, r"picture \.\./x\.jpg is not in "),
        ({"image/key": "x", "de": {"caption": [3]}}, r"line 1: a text must be a string.*; got '\[3\]'"),
        ({"image/key": "x", "image/locale": "de"}, "holds no example with a text"),
    ],
)
def test_broken_lines_name_the_place(tmp_path, content, message):
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        source_config(f"xm3600:{file}").build("all", image_size=0)
