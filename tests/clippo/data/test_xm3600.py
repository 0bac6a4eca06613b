import json

import pytest

from clippo.data.decode import pixels_of
from clippo.data.spec import source_config
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import create_model
from tests.clippo.data.conftest import write_xm3600


@pytest.fixture
def folder(tmp_path):
    write_xm3600(tmp_path)
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
