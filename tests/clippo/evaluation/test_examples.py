import numpy as np
import pytest

from clippo.data.base import Example, Source, Text
from clippo.data.transform import SquashConfig
from clippo.evaluation import attention_maps, modality_gap
from clippo.evaluation.examples import main_text, sample


class Counted(Source):
    """40 pictures, of which two neighbours have one text, and which of them were read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.read.append(index)
        return Example(str(index), np.full((8, 8, 3), index, np.uint8), self.described(index).texts)

    def described(self, index):
        return Example(
            str(index), b"", (Text(f"Bild {index // 2}", "de"), Text(f"picture {index // 2}", "en"))
        )


@pytest.mark.parametrize(
    ("module", "config", "limit"),
    [
        (attention_maps, attention_maps.AttentionMapsConfig, "MAX_EXAMPLES"),
        (modality_gap, modality_gap.ModalityGapConfig, "MAX_PAIRS"),
    ],
)
def test_only_what_is_measured_is_read(module, config, limit, config_of, monkeypatch):
    monkeypatch.setattr(module, limit, 12)
    monkeypatch.setattr(modality_gap, "MIN_PAIRS", 5)
    source = Counted()
    evaluator = config(split="all").build(config_of(all=source), SquashConfig(), 8)
    assert [example.key for example in evaluator.examples] == [str(index) for index in source.read]
    assert len({*source.read}) == 12
    assert module is attention_maps or all(index % 2 == 0 for index in source.read)


def test_a_sample_is_drawn_at_random_and_the_same_each_time():
    rows = range(100, 400)
    drawn = sample(rows, 50)
    assert drawn == sample(rows, 50)
    assert len({*drawn} & {*rows}) == 50
    assert 200 < np.mean(drawn) < 300
    assert sorted(sample(rows, 1000)) == list(rows)


def test_the_main_text_is_english():
    assert main_text(Counted().described(6)).text == "picture 3"
    assert main_text(Example("", None, (Text("Bild", "de"), Text("image", "fr")))).text == "Bild"
