import dataclasses

import numpy as np
import pytest

from clippo.data.emoji import SKIN_TONES, EmojiConfig, EmojiDataset, EmojiFont
from clippo.errors import UserError
from clippo.renderer import FontNotFoundError, UnifontRenderer


def index_of(dataset: EmojiDataset, emoji: str) -> int:
    return [concept.emoji for concept in dataset.concepts].index(emoji)


def test_concepts_are_plenty_named_and_different(dataset):
    concepts = dataset.concepts
    assert len(concepts) > 3000
    assert len({concept.emoji for concept in concepts}) == len(concepts)
    for language in dataset.config.languages:
        names = [concept.names[language] for concept in concepts]
        assert len(set(names)) == len(names)
        assert not any(":" in name.strip(":") or "_" in name for name in names)
    dog = concepts[index_of(dataset, "🐶")]
    assert dog.names == {"en": "dog face", "de": "hundegesicht", "zh": "狗脸"}
    assert dog.aliases == ("dog",)


def test_no_two_pictures_are_the_same(dataset):
    pictures = dataset.draw(np.arange(len(dataset.concepts)))
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_sequences_that_the_font_draws_in_parts_or_not_at_all_are_left_out():
    font = EmojiFont()
    assert font.draw("👩🏽‍🚒", 32) is not None
    assert font.draw("🚒👩", 32) is None
    assert font.draw("\U0010fffd", 32) is None


@pytest.mark.parametrize("size", [16, 64, 200])
def test_pictures_are_drawn_at_any_size(size):
    dog = EmojiFont().draw("🐶", size)
    alpha = dog[..., 3]
    assert dog.shape == (size, size, 4)
    assert alpha.max() == 255
    assert alpha[0].max() == 0
    rows, columns = np.flatnonzero(alpha.max(1)), np.flatnonzero(alpha.max(0))
    assert np.ptp(columns) > 0.85 * size
    assert abs(rows.mean() - size / 2) < 0.1 * size


def test_held_out_pictures_are_new_compositions_of_known_parts(dataset):
    held_out = [c for c, out in zip(dataset.concepts, dataset.held_out, strict=True) if out]
    trained = [c for c, out in zip(dataset.concepts, dataset.held_out, strict=True) if not out]
    toned = [c for c in dataset.concepts if c.skin_tones]
    assert 0.18 < len(held_out) / len(toned) < 0.22
    trained_tones: dict[str, set[str]] = {}
    for concept in trained:
        trained_tones.setdefault(concept.without_skin_tone, set()).add(concept.skin_tones)
    for concept in held_out:
        assert len(concept.skin_tones) == 1
        # the same person and role, in other tones
        assert len(trained_tones[concept.without_skin_tone] - {""}) == 4
    counts = [sum(c.skin_tones == tone for c in held_out) for tone in SKIN_TONES]
    assert max(counts) - min(counts) <= 1


def test_training_never_draws_a_held_out_concept(dataset, monkeypatch):
    batches: list[np.ndarray] = []
    monkeypatch.setattr(dataset, "draw", lambda indices, placements: batches.append(indices))
    for number in range(60):
        dataset.batch(number, 256)
    assert all(len(set(batch.tolist())) == 256 for batch in batches)
    counts = np.bincount(np.concatenate(batches), minlength=len(dataset.concepts))
    assert counts[dataset.held_out].sum() == 0
    toned = np.array([bool(c.skin_tones) for c in dataset.concepts])
    rare, common = counts[toned & ~dataset.held_out].mean(), counts[~toned].mean()
    assert rare / common == pytest.approx(dataset.config.skin_tone_weight, rel=0.15)


def test_held_out_concepts_stay_out_of_batches_of_every_trained_one(monkeypatch):
    """Also where skin-tone variants have no weight, and a batch is too large to do without them."""
    dataset = EmojiDataset(EmojiConfig(languages=("en",), skin_tone_weight=0), UnifontRenderer(32))
    batches: list[np.ndarray] = []
    monkeypatch.setattr(dataset, "draw", lambda indices, placements: batches.append(indices))
    dataset.batch(0, int((~dataset.held_out).sum()))
    assert not dataset.held_out[batches[0]].any()
    assert len(set(batches[0].tolist())) == (~dataset.held_out).sum()


def test_batches_follow_from_seed_and_number(dataset):
    pictures, texts = dataset.batch(3, 32)
    assert pictures.shape == (32, 64, 64, 3)
    assert texts.shape == (32, 64, 64)
    assert pictures.dtype == texts.dtype == np.uint8
    again = dataset.batch(3, 32)
    assert np.array_equal(pictures, again[0])
    assert np.array_equal(texts, again[1])
    other = dataset.batch(4, 32)
    assert not np.array_equal(texts, other[1])
    reseeded = EmojiDataset(dataset.config, dataset.renderer, seed=1).batch(3, 32)
    assert not np.array_equal(texts, reseeded[1])


def test_parts_of_a_batch_are_its_rows(dataset):
    pictures, texts = dataset.batch(5, 32)
    parts = [dataset.batch(5, 32, slice(start, start + 8)) for start in range(0, 32, 8)]
    assert np.array_equal(np.concatenate([p for p, _ in parts]), pictures)
    assert np.array_equal(np.concatenate([t for _, t in parts]), texts)


def test_texts_have_the_shares_asked_for():
    renderer = UnifontRenderer(64)
    said: list[str] = []

    def spy(texts):
        said.extend(texts)
        return renderer(texts)

    spy.size = renderer.size
    config = EmojiConfig(languages=("en", "zh"), english_share=0.7, alias_share=0.5)
    dataset = EmojiDataset(config, spy)  # type: ignore[arg-type]
    for number in range(20):
        dataset.batch(number, 256)
    names = {c.names["en"] for c in dataset.concepts}
    aliases = {alias for c in dataset.concepts for alias in c.aliases} - names
    chinese = {c.names["zh"] for c in dataset.concepts} - names - aliases
    share = {
        what: sum(text in words for text in said) / len(said)
        for what, words in (("names", names), ("aliases", aliases), ("chinese", chinese))
    }
    assert share["chinese"] == pytest.approx(0.3, abs=0.02)
    assert 0.05 < share["aliases"] < 0.35
    assert sum(share.values()) == pytest.approx(1)


def test_english_alone_is_possible():
    dataset = EmojiDataset(EmojiConfig(languages=("en",)), UnifontRenderer(32))
    assert dataset.batch(0, 4)[1].shape == (4, 32, 32)


def test_augmentation_moves_pictures_and_colours_their_ground():
    renderer = UnifontRenderer(64)
    changes = []
    for augmentation in (0.0, 0.25, 1.0):
        dataset = EmojiDataset(EmojiConfig(languages=("en",), augmentation=augmentation), renderer)
        dog = index_of(dataset, "🐶")
        plain = dataset.draw([dog])[0].astype(float)
        placements = np.random.default_rng(0).random((20, 5))
        placed = dataset.draw([dog] * 20, placements)
        changes.append(np.abs(placed - plain).mean((1, 2, 3)).mean())
        corners = placed[:, 0, 0].reshape(-1)
        assert np.abs(corners - 127.0).max() <= 127 * augmentation + 2
    assert changes[0] == 0
    assert 5 < changes[1] < changes[2]


def test_ground_is_the_grey_asked_for():
    dataset = EmojiDataset(EmojiConfig(languages=("en",), ground=255, augmentation=0), UnifontRenderer(32))
    assert (dataset.draw([0, 1])[:, 0, 0] == 255).all()
    assert (dataset.batch(0, 8)[0][:, 0, 0] == 255).all()


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(UserError, match="languages must be among en .*; got xx"):
        EmojiConfig(languages=("en", "xx"))
    with pytest.raises(UserError, match="have en among them, got de fr"):
        EmojiConfig(languages=("de", "fr"))
    for field in ("english_share", "alias_share", "skin_tone_weight", "augmentation"):
        with pytest.raises(UserError, match=f"{field} must be between 0 and 1, got 2"):
            dataclasses.replace(EmojiConfig(), **{field: 2})
    with pytest.raises(UserError, match="ground must be between 0 and 255, got 256"):
        EmojiConfig(ground=256)
    with pytest.raises(FontNotFoundError, match="fonts-noto-color-emoji"):
        EmojiFont(tmp_path)
    (tmp_path / "NotoColorEmoji.ttf").write_text("no font")
    with pytest.raises(OSError, match="is not a font that Skia can read"):
        EmojiFont(tmp_path)
