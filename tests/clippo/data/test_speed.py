import time

import pytest

from clippo.data.base import Example, Source, Text
from clippo.data.spec import data_config, source_config
from clippo.data.speed import rates_of_workers, seconds_of_stages
from clippo.data.transform import SquashConfig


class Slow(Source):
    """A source that takes 5 ms to read an example."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        time.sleep(0.005)
        example = self.source[index]
        return Example(example.key, example.image, (Text(example.texts[0].text),))


def test_the_slow_stage_is_found(layouts):
    source = Slow(source_config(layouts["folder"]).build("all", image_size=32))
    seconds = seconds_of_stages(source, SquashConfig(), 32)
    assert list(seconds) == ["read", "decode", "transform", "render"]
    assert 0.005 <= seconds["read"] < 0.05
    assert all(0 < own < seconds["read"] for stage, own in seconds.items() if stage != "read")


@pytest.mark.parametrize("workers", [(0,), pytest.param((1, 0), marks=pytest.mark.slow)])
def test_rates(layouts, workers):
    source = Slow(source_config(layouts["folder"]).build("all", image_size=32))
    rates = rates_of_workers(source, SquashConfig(), 32, batch_size=8, workers=workers, count=6)
    assert tuple(rates) == workers
    assert all(10 < rate < 400 for rate in rates.values())


def test_broken_examples_and_mixtures(layouts, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a broken one")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.txt").write_text("a missing one")
    data = data_config([layouts["folder"] + "=1", f"folder:{tmp_path}=9"])
    seconds = seconds_of_stages(data.build("all", image_size=32), SquashConfig(), 32)
    assert all(own > 0 for own in seconds.values())
