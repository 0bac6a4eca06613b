import numpy as np

from clippo.data.made_up import MadeUpConfig


def test_examples_follow_from_their_index():
    source = MadeUpConfig(count=10, words=3).build("train", image_size=48)
    assert len(source) == 10
    first, again, other = source[3], source[3], source[4]
    assert first.image.shape == (48, 48, 3)
    assert np.array_equal(first.image, again.image)
    assert first.texts == again.texts
    assert first.texts != other.texts
    assert len(first.texts[0].text.split()) == 3
    pairs = MadeUpConfig(count=10, text_share=0.3).build("train", image_size=48)
    assert [len(pairs[i].texts) for i in range(10)] == [1, 1, 1, 2, 1, 1, 2, 1, 1, 2]
    assert pairs[3].image is None
    assert len(MadeUpConfig().build("held_out", image_size=48)) == 0
