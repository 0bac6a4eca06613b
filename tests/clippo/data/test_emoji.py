import dataclasses

import numpy as np
import pytest

from clippo.data.emoji import SKIN_TONES, EmojiConfig, EmojiFont, EmojiSource
from clippo.errors import UserError
from clippo.renderer import FontNotFoundError


def index_of(source: EmojiSource, sequence: str) -> int:
    return [one.sequence for one in source.emojis].index(sequence)


@pytest.mark.slow
def test_emoji_are_plenty_named_and_different(emoji):
    assert len(emoji) > 3000
    assert len({one.sequence for one in emoji.emojis}) == len(emoji)
    for language in emoji.config.languages:
        names = [one.names[language] for one in emoji.emojis]
        assert len(set(names)) == len(names)
        assert not any(":" in name.strip(":") or "_" in name for name in names)
    dog = emoji.emojis[index_of(emoji, "🐶")]
    assert dog.names == {"en": "dog face", "de": "hundegesicht", "zh": "狗脸"}
    assert dog.aliases == ("dog",)


@pytest.mark.slow
def test_an_example_has_a_picture_and_texts_with_the_shares_asked_for(emoji):
    dog = emoji[index_of(emoji, "🐶")]
    assert dog.key == "🐶"
    assert dog.image.shape == (64, 64, 4)
    found = {(text.text, text.language): text.weight for text in dog.texts}
    assert found == pytest.approx(
        {("dog face", "en"): 0.32, ("hundegesicht", "de"): 0.3, ("狗脸", "zh"): 0.3, ("dog", "en"): 0.08}
    )
    english = EmojiConfig(languages=("en",), alias_share=0.5).build("all", image_size=32)
    weights = {text.text: text.weight for text in english[index_of(english, "🐶")].texts}
    assert weights == {"dog face": 0.5, "dog": 0.5}


@pytest.mark.slow
def test_no_two_pictures_are_the_same(emoji):
    assert len({picture.tobytes() for picture in emoji.pictures}) == len(emoji)


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


@pytest.mark.slow
def test_held_out_pictures_are_new_compositions_of_known_parts(emoji):
    trained, held_out = (emoji.config.build(split, image_size=64).emojis for split in ("train", "held_out"))
    assert len(trained) + len(held_out) == len(emoji)
    assert not {one.sequence for one in trained} & {one.sequence for one in held_out}
    toned = [one for one in emoji.emojis if one.skin_tones]
    assert 0.18 < len(held_out) / len(toned) < 0.22
    trained_tones: dict[str, set[str]] = {}
    for one in trained:
        trained_tones.setdefault(one.without_skin_tone, set()).add(one.skin_tones)
    for one in held_out:
        assert len(one.skin_tones) == 1
        # the same person and role, in other tones
        assert len(trained_tones[one.without_skin_tone] - {""}) == 4
    counts = [sum(one.skin_tones == tone for one in held_out) for tone in SKIN_TONES]
    assert max(counts) - min(counts) <= 1


def test_skin_tones_have_their_weight(emoji):
    weights = emoji.weights
    toned = np.array([bool(one.skin_tones) for one in emoji.emojis])
    assert (weights[toned] == 0.25).all()
    assert (weights[~toned] == 1).all()


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(UserError, match="languages must be among en .*; got xx"):
        EmojiConfig(languages=("en", "xx"))
    with pytest.raises(UserError, match="have en among them, got de fr"):
        EmojiConfig(languages=("de", "fr"))
    for field in ("english_share", "alias_share", "skin_tone_weight"):
        with pytest.raises(UserError, match=f"{field} must be between 0 and 1, got 2"):
            dataclasses.replace(EmojiConfig(), **{field: 2})
    with pytest.raises(FontNotFoundError, match="fonts-noto-color-emoji"):
        EmojiFont(tmp_path)
    (tmp_path / "NotoColorEmoji.ttf").write_text("no font")
    with pytest.raises(OSError, match="is not a font that Skia can read"):
        EmojiFont(tmp_path)
