from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest
import torch

from clippo.data.base import Example, Source, Text
from clippo.data.emoji import EmojiConfig
from clippo.data.loader import Batches, load
from clippo.data.order import ShuffledOrder
from clippo.data.text_augment import TextAugmentConfig
from clippo.data.transform import PlaceConfig
from clippo.errors import UserError
from clippo.model import ByteTextConfig, Clippo, ClippoConfig, RenderedTextConfig
from clippo.model.configs import from_dict, to_dict
from clippo.recipes import emoji
from clippo.renderer import AlignedRenderer, UnifontRenderer, inked_patches
from clippo.training.config import TrainConfig

SIZES = ClippoConfig(width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=16, image_size=64, embed_dim=8)
INKED, ALL, BYTES = RenderedTextConfig(tokens="inked"), RenderedTextConfig(), ByteTextConfig(max_bytes=24)
EVERYTHING = TextAugmentConfig(spelling=("typos=0.3", "look_alikes=0.3"), shift=3, shade=40)
TEXTS = ("a", "grinning face", "Würde", "मैं", "笑脸", "a text of many words in three rows or so")


def text_input_of(text, renderer=AlignedRenderer):
    drawn = None if isinstance(text, ByteTextConfig) else renderer(SIZES.image_size)
    return Clippo(replace(SIZES, text=text), drawn).text_input


class Named(Source):
    """Pictures with a text, and in every third place a pair of texts."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index % 3 == 0:
            return Example(str(index), None, (Text("sentence"), Text("sentence")))
        text = Text(TEXTS[index % len(TEXTS)])
        return Example(str(index), np.full((32, 32, 3), index, np.uint8), (text,))


def batches_of(text, config, *, renderer=AlignedRenderer, rows=slice(0, 8), steps=range(4), seed=0):
    text_input = text_input_of(text, renderer)
    return Batches(
        Named(), ShuffledOrder(40, 8, seed=seed), PlaceConfig(strength=0.5).build(32), text_input,
        rows=rows, steps=steps, seed=seed, text_augment=config.build(text_input),
    )  # fmt: skip


def listed(texts, mask):
    """What the tower reads of each text, as bytes that can be compared."""
    if mask is None and not isinstance(texts, torch.Tensor):
        ends = texts.varlen.cu_seqlens.tolist()
        return [
            (texts.pixels[a:b].numpy().tobytes(), texts.positions[a:b].tolist()) for a, b in pairwise(ends)
        ]
    masks = [None] * len(texts) if mask is None else mask.tolist()
    return [(text.numpy().tobytes(), own) for text, own in zip(texts, masks, strict=True)]


def both(batch):
    """The texts of a batch, and the first ones of its pairs."""
    first = batch.images
    pairs = [] if isinstance(first, torch.Tensor) else listed(first.texts, first.text_mask)
    return listed(batch.texts, batch.text_mask), pairs


KINDS = [
    (INKED, AlignedRenderer),
    pytest.param(INKED, UnifontRenderer, marks=pytest.mark.slow),
    pytest.param(ALL, UnifontRenderer, marks=pytest.mark.slow),
    pytest.param(BYTES, None, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("text", "renderer"), KINDS)
def test_a_batch_follows_from_the_seed_and_the_step_on_any_number_of_processes(text, renderer):
    config = replace(EVERYTHING, shift=0, shade=0) if text is BYTES else EVERYTHING
    whole = [both(b) for b in load(batches_of(text, config, renderer=renderer), workers=0)]
    late = [both(b) for b in load(batches_of(text, config, renderer=renderer, steps=range(2, 4)), workers=0)]
    assert late == whole[2:]
    assert whole[0] != whole[1]
    parts = [
        both(batches_of(text, config, renderer=renderer, rows=rows).read(0))
        for rows in (slice(0, 3), slice(3, 4), slice(4, 8))
    ]
    assert tuple([*chain(*own)] for own in zip(*parts, strict=True)) == whole[0]
    assert both(batches_of(text, config, renderer=renderer, seed=1).read(0)) != whole[0]


@pytest.mark.slow
def test_workers_give_the_same_batches():
    expected = [both(batch) for batch in load(batches_of(INKED, EVERYTHING), workers=0)]
    assert [both(batch) for batch in load(batches_of(INKED, EVERYTHING), workers=1)] == expected


@pytest.mark.parametrize(("text", "renderer"), KINDS)
def test_images_and_labels_stay_and_by_default_all_does(text, renderer):
    config = TextAugmentConfig(spelling=("typos=0.5",))
    plain, same, changed = (
        batches_of(text, one, renderer=renderer).read(1) for one in (TextAugmentConfig(),) * 2 + (config,)
    )
    assert torch.equal(plain.images.images, changed.images.images)
    assert torch.equal(plain.labels, changed.labels)
    assert len(set(plain.labels.tolist())) < 8  # some texts are equal
    assert both(plain) == both(same)
    first, second = (
        [a != b for a, b in zip(*sides, strict=True)]
        for sides in zip(both(plain), both(changed), strict=True)
    )
    assert any(first)
    assert any(second)


def test_the_two_texts_of_a_pair_are_changed_each_in_its_own_way():
    batch = batches_of(BYTES, TextAugmentConfig(spelling=("typos=0.5",))).read(1)
    is_text = batch.images.is_text
    assert not torch.equal(batch.texts[is_text], batch.images.texts)


def test_perturbations_are_made_one_after_the_other():
    config = TextAugmentConfig(spelling=("full_width=1", "upper_case=1"))
    augment = config.build(text_input_of(BYTES))
    assert augment.perturb("abc", np.random.default_rng(0)) == "ＡＢＣ"


@pytest.fixture(scope="module")
def names() -> list[str]:
    source = EmojiConfig(languages=("en", "zh")).build("held_out", image_size=16)
    return [text.text for index in range(60) for text in source[index].texts[:2]]


def test_packed_patches_and_images_are_moved_and_shaded_alike(names):
    """Real names; the patches of the changed images are the changed patches."""
    config = TextAugmentConfig(shift=2, shade=60)
    text_input = text_input_of(INKED)
    augment = config.build(text_input)
    drawn = np.random.default_rng(0).random((len(names), 4))
    packed = augment.move(text_input.tokenize(names), drawn)
    images = augment.move(torch.from_numpy(text_input.tokenizer(names)), drawn)
    is_inked = text_input.mask(images)
    owner, position = is_inked.nonzero(as_tuple=True)
    assert torch.equal(packed.positions.long(), position)
    assert torch.equal(packed.varlen.cu_seqlens.diff().long(), is_inked.sum(1))
    shaded, images = augment.shaded(packed, drawn), augment.shaded(images, drawn)
    patches = images.reshape(-1, 4, 16, 4, 16).transpose(2, 3).reshape(-1, 16, 16, 16)
    assert torch.equal(shaded.pixels, patches[owner, position])
    assert torch.equal(shaded.positions, packed.positions)


def test_a_text_moves_as_a_whole_as_far_as_there_is_room():
    text_input = text_input_of(INKED)
    augment = TextAugmentConfig(shift=2).build(text_input)
    texts = ["ab", "ab cd", "a b c d e f g h i j k l m n"]  # 1 and 2 patches of a row of 4; 14 of 16
    before = text_input.tokenize(texts).positions.numpy()
    seen = set()
    for seed in range(60):
        drawn = np.random.default_rng(seed).random((3, 4))
        after = augment.move(text_input.tokenize(texts), drawn).positions.numpy()
        seen.add(int(after[0]))
        assert after[2] == after[1] + 1
        assert after[1] % 4 <= 2
        assert (after[3:] == before[3:]).all()  # its rows are full
    assert seen == {4 * row + column for row in range(3) for column in range(3)}


def test_ink_and_background_get_other_levels():
    text_input = text_input_of(ALL, UnifontRenderer)
    augment = TextAugmentConfig(shade=40).build(text_input)
    images = text_input.tokenize(["word"] * 200)
    found = augment.shaded(images, np.random.default_rng(0).random((200, 4)))
    is_ink = images[0] == 0
    ink, background = found[:, is_ink], found[:, ~is_ink]
    for own in (ink, background):
        assert (own == own[:, :1]).all()
    assert background[:, 0].min() in range(87, 91)
    assert background[:, 0].max() in range(164, 168)
    assert ink[:, 0].max() in range(36, 41)
    assert (ink[:, 0] == 0).float().mean() == pytest.approx(0.5, abs=0.1)  # black cannot be darker
    drawn = np.tile([0, 0, 0.5, 0.5], (200, 1))
    assert torch.equal(augment.shaded(images, drawn), images)


def test_a_mask_is_of_the_ink_and_not_of_a_shaded_background():
    batch = batches_of(INKED, TextAugmentConfig(shade=50), renderer=UnifontRenderer).read(0)
    plain = batches_of(INKED, TextAugmentConfig(), renderer=UnifontRenderer).read(0)
    assert torch.equal(batch.text_mask, plain.text_mask)
    assert inked_patches(batch.texts.numpy(), 16, 127).all()  # but for a background that is drawn as 127


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spelling": ("typo=0.1",)}, "a perturbation must be one of .*, got 'typo'"),
        ({"shift": -1}, "text_augment.shift must not be negative, got -1"),
        ({"shade": 256}, "text_augment.shade must be from 0 to 255, got 256"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        TextAugmentConfig(**fields)


def test_pixels_that_are_not_drawn_or_would_vanish_are_refused():
    with pytest.raises(UserError, match="text_augment.shift and shade must be 0 for .* bytes"):
        TextAugmentConfig(shift=1).build(text_input_of(BYTES))
    with pytest.raises(UserError, match="text_augment.shade must be less than half .* 0 and 127; got 64"):
        TextAugmentConfig(shade=64).build(text_input_of(INKED))
    TextAugmentConfig(shade=63).build(text_input_of(INKED))


def test_the_configuration_of_a_run_holds_it_and_older_ones_have_none():
    config = replace(emoji.recipe(), text_augment=EVERYTHING)
    written = to_dict(config)
    assert from_dict(TrainConfig, written) == config
    del written["text_augment"]
    assert from_dict(TrainConfig, written) == emoji.recipe()
