import json
from dataclasses import replace

import numpy as np
import pytest

from clippo.data.emoji import EmojiConfig
from clippo.data.transform import PlaceConfig
from clippo.errors import UserError
from clippo.evaluation import token_efficiency
from clippo.evaluation.token_efficiency import TokenEfficiencyConfig, inked_patches_of, trained_bpe
from clippo.model import ByteTextConfig, Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRenderer, UnifontRenderer

BYTES = ClippoConfig(
    width=32,
    depth=1,
    mlp_dim=64,
    num_heads=2,
    patch_size=16,
    image_size=64,
    embed_dim=8,
    text=ByteTextConfig(),
)
INKED = replace(BYTES, text=RenderedTextConfig(tokens="inked"))
RIGHTS = {
    # In the aligned layout, a word of n letters takes n / 2 patches, rounded up.
    "eng": {1: "all human beings are born free", 21: "free will", 22: "no one"},  # 4 and 3 patches
    "rus": {1: "все люди рождаются", 21: "воля народа", 22: "никто"},  # 2 + 3 and 3 patches
    "ukr": {21: "воля народу"},  # 5 patches
    "cmn": {22: "任何人", 23: "在英语里没有"},  # 3 patches; English has no article 23
    "old": {1: "Nur früher"},
}


@pytest.fixture
def folder(tmp_path):
    rights = [
        {"code": code, "language": code[:2], "article": number, "text": text}
        for code, own in RIGHTS.items()
        for number, text in own.items()
    ]
    packages = [
        {"synopsis": {"en": f"a free library {n}"}, "description": {"en": " It is\n free."}} for n in "abc"
    ]
    for name, rows in (("rights", rights), ("packages", packages)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def build(folder, vocab_size=340):
    config = TokenEfficiencyConfig(path=str(folder), vocab_size=vocab_size)
    return config.build(EmojiConfig(), PlaceConfig(), 64)


def test_counts_are_compared_with_those_of_the_same_articles_in_english(folder):
    metrics = build(folder)(Clippo(INKED, AlignedRenderer(64)).eval())
    assert metrics["english/patches"] == (4 + 3) / 2
    assert metrics["mean/patches"] == np.mean([3.5, 4, 5, 3])
    ratios = {"eng": 1, "rus": 8 / 7, "ukr": 5 / 4, "cmn": 3 / 3}
    assert {code: metrics[f"ratio/{code}/patches"] for code in ratios} == pytest.approx(ratios)
    assert metrics["median_ratio/patches"] == pytest.approx((1 + 8 / 7) / 2)
    assert metrics["worst_ratio/patches"] == 5 / 4
    assert metrics["ratio/rus/bytes"] == (2 * 10 + 1 + 10) / (9 + 6)
    assert metrics["ratio/cmn/bytes"] == 9 / 6
    assert metrics["script/Cyrl/patches"] == pytest.approx((8 / 7 + 5 / 4) / 2)
    assert "script/Latn/patches" not in metrics  # one language
    assert metrics["fewer_patches/bytes"] == 100
    assert 0 <= metrics["fewer_patches/bpe_all"] <= 100
    assert metrics["ratio/rus/bpe_en"] > metrics["ratio/rus/bpe_all"] > 0
    assert (metrics["canvas/patches"], metrics["canvas/texts_cut"]) == (16, 0)


@pytest.mark.parametrize("renderer", [AlignedRenderer(64), UnifontRenderer(64)])
def test_a_text_takes_the_patches_that_a_model_reads(renderer):
    texts = ["two old cats", "写真の猫", "", "Straße"]
    text_input = Clippo(INKED, renderer).text_input
    tokens = text_input.tokenize(texts)
    mask = text_input.mask(tokens)
    read = tokens.varlen.cu_seqlens.diff() if mask is None else mask.sum(1)
    assert np.maximum(inked_patches_of(texts, renderer, 16), 1).tolist() == read.tolist()


def test_long_texts_are_not_cut():
    renderer = AlignedRenderer(64)  # of 32 letters
    assert inked_patches_of(["a" * 2000, "猫" * 2000], renderer, 16).tolist() == [1000, 2000]
    assert inked_patches_of(["猫" * 2000], UnifontRenderer(224), 16)[0] > 1700


def test_texts_that_do_not_fit_are_counted(folder):
    with (folder / "rights.jsonl").open("a") as file:
        for code in ("eng", "rus"):
            file.write(json.dumps({"code": code, "article": 24, "text": "a" * 33}) + "\n")
    metrics = build(folder)(Clippo(INKED, AlignedRenderer(64)).eval())
    assert metrics["canvas/texts_cut"] == pytest.approx(100 * 2 / 8)


def test_unknown_characters_are_bytes_and_frequent_words_are_one_token():
    bpe = trained_bpe(["the old cat"] * 50, 300)
    assert len(bpe.encode("the old cat")) == 3
    assert bpe.decode(bpe.encode("the 猫 cat")) == "the 猫 cat"
    assert len(bpe.encode("the 猫 cat")) == 2 + 4  # the mark of a word, and three bytes
    assert bpe.encode("the act") == trained_bpe(["the old cat"] * 50, 300).encode("the act")


def test_a_model_that_reads_bytes_has_no_patches(folder):
    evaluator, model = build(folder), Clippo(BYTES).eval()
    metrics = evaluator(model)
    assert metrics["english/bytes"] == (9 + 6) / 2
    assert not [name for name in metrics if "patches" in name or "canvas" in name]
    assert evaluator.picture(model).size == (1200, 600)


def test_bad_input(folder, monkeypatch):
    with pytest.raises(UserError, match="vocab_size must be at least 300, got 256"):
        TokenEfficiencyConfig(vocab_size=256)
    with pytest.raises(UserError, match="there is no file .*rights.jsonl: `clippo data fetch texts`"):
        build(folder / "elsewhere")
    with pytest.raises(UserError, match="vocab_size 300 does not fit the texts"):
        trained_bpe(["".join(map(chr, range(0x410, 0x450)))], 300)
    (folder / "packages.jsonl").write_text('{"synopsis": {}}\n')
    with pytest.raises(UserError, match="packages.jsonl, line 1 has no field 'description'"):
        build(folder)
    (folder / "rights.jsonl").write_text("")
    with pytest.raises(UserError, match="must hold articles from 21 in eng"):
        build(folder)
    monkeypatch.setattr(token_efficiency, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs sentencepiece: pip install"):
        build(folder)
