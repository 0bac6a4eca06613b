import torch

from clippo.data.pairs import FirstSides


def first_sides(is_text) -> FirstSides:
    """Images filled with the number of their row, texts of one letter and theirs."""
    rows, is_text = torch.arange(len(is_text)), torch.tensor(is_text)
    images = rows[~is_text].to(torch.uint8)[:, None, None, None].expand(-1, 4, 4, 3)
    texts = rows[is_text][:, None]
    return FirstSides(images, texts, torch.ones_like(texts, dtype=torch.bool), is_text)


def test_order_puts_each_side_into_its_row():
    sides = first_sides([False, True, True, False, True])
    assert len(sides) == 5
    rows = torch.cat([sides.images[:, 0, 0, 0], sides.texts[:, 0]])
    assert rows[sides.order].tolist() == [0, 1, 2, 3, 4]


def test_parts_are_those_of_consecutive_rows():
    is_text = [False, True, True, False, True, True, True, False]
    parts = first_sides(is_text).split(3)
    assert [len(part) for part in parts] == [3, 3, 2]
    assert [part.images[:, 0, 0, 0].tolist() for part in parts] == [[0], [3], [7]]
    assert [part.texts[:, 0].tolist() for part in parts] == [[1, 2], [4, 5], [6]]
    assert [len(part.text_mask) for part in parts] == [2, 2, 1]
    assert torch.cat([part.is_text for part in parts]).tolist() == is_text


def test_pairs_of_texts_alone():
    sides = first_sides([True, True])
    assert sides.images.shape == (0, 4, 4, 3)
    assert sides.order.tolist() == [0, 1]
    assert [len(part.images) for part in sides.split(1)] == [0, 0]
