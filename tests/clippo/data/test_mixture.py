import dataclasses

import numpy as np
import pytest

from clippo.data.base import SourceConfig
from clippo.data.emoji import EmojiConfig
from clippo.data.mixture import MixtureConfig
from clippo.data.order import MixedOrder, ShuffledOrder, WeightedOrder, order_of
from clippo.data.spec import data_config
from clippo.errors import UserError
from clippo.model.configs import from_dict, to_dict
from clippo.recipes.own import recipe
from clippo.training.schedules import ConstantConfig
from clippo.training.trainer import train
from tests.clippo.data.test_layouts import losses, tiny


def test_examples_are_those_of_the_sources_one_after_the_other(layouts):
    config = data_config([layouts["folder"], layouts["parquet"]])
    mixture = config.build("all", image_size=32)
    assert len(mixture) == 48
    parts = [part for part, _ in mixture.parts]
    assert [share for _, share in mixture.parts] == [24, 24]
    for index in (0, 23, 24, 47):
        own = parts[index // 24][index % 24]
        assert mixture[index] == dataclasses.replace(own, key=f"{index // 24}:{own.key}")
    other = dataclasses.replace(config, shares=(1.0, 2.0)).build("all", image_size=32)
    assert mixture.fingerprint != other.fingerprint
    assert from_dict(SourceConfig, to_dict(config)) == config


def test_orders(layouts, monkeypatch):
    emoji = EmojiConfig(languages=("en",)).build("train", image_size=32)
    assert type(order_of(emoji, 8, seed=0)) is WeightedOrder
    parquet = data_config([layouts["parquet"]]).build("all", image_size=32)
    assert order_of(parquet, 8, seed=0).shuffle.runs is None  # all of it is kept in memory
    monkeypatch.setattr("clippo.data.parquet.KEPT_BYTES", 25_000)
    order = order_of(parquet, 8, seed=0)
    assert type(order) is ShuffledOrder
    assert order.shuffle.runs.first.tolist() == [0, 5, 10, 15, 20]
    assert order.shuffle.runs.window == 2
    mixed = order_of(
        data_config([layouts["folder"] + "=3", layouts["parquet"] + "=1"]).build("all", image_size=32),
        8,
        seed=0,
    )
    assert type(mixed) is MixedOrder
    found = np.concatenate([mixed(step) for step in range(125)])
    assert (found < 24).sum() == 750


@pytest.mark.parametrize("window", [1, 2])
def test_row_groups_of_a_part_of_a_file(layouts, window, monkeypatch):
    monkeypatch.setattr("clippo.data.parquet.KEPT_BYTES", window * 10_000)
    source = data_config([layouts["parquet"] + "?held_out=0.4"]).build("train", image_size=32)
    group = source.images.places[source.rows, 1]
    assert source.runs.first.tolist() == np.unique(group, return_index=True)[1].tolist()
    found = np.concatenate([order_of(source, 2, seed=0)(step) for step in range(len(source) // 2)])
    assert len(set(found.tolist())) == len(found)


@pytest.mark.slow
def test_a_mixture_trains_and_resumes(layouts, tmp_path):
    config = dataclasses.replace(tiny(layouts["folder"]), schedule=ConstantConfig())  # whatever the length
    data = data_config([layouts["folder"] + "=1", layouts["csv"] + "=2"])
    config = dataclasses.replace(config, data=data, checkpoint_every=3)
    train(config, tmp_path / "whole")
    train(dataclasses.replace(config, steps=3), tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert losses(tmp_path / "whole")[3:] == losses(tmp_path / "cut")[3:]
    assert recipe(data).evaluators.keys() == {"held_out"}


def test_shares_of_specifications(layouts, tmp_path):
    (tmp_path / "a=2").mkdir()
    parts = data_config(["folder:x?held_out=0.2=3", "table:y.csv=1", "p/*.parquet?text=caption=0.5"])
    assert [type(part).name for part in parts.sources] == ["folder", "table", "parquet"]
    assert parts.sources[0].held_out == 0.2
    assert parts.sources[2].text == "caption"
    assert parts.shares == (3.0, 1.0, 0.5)
    assert data_config(["folder:x?held_out=0.2"]).held_out == 0.2
    assert data_config([f"folder:{tmp_path}/a=2"]).path.endswith("a=2")
    assert data_config(["emoji", "folder:x"]).shares == ()


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            ["folder:a=1", "folder:b"],
            "either all or none of the sources may have shares, got folder:a=1 folder:b",
        ),
        (["folder:a=0", "folder:b=1"], "shares must be above 0 and finite, got 0.0 1.0"),
        (["folder:a=inf", "folder:b=1"], "shares must be above 0 and finite, got inf 1.0"),
        (["mixture:"], "sources is missing"),
    ],
)
def test_mixtures_of_no_kind(specs, message):
    with pytest.raises(UserError, match=message):
        data_config(specs)
    with pytest.raises(UserError, match="at least two sources, got 1"):
        MixtureConfig(sources=(EmojiConfig(),))
    with pytest.raises(UserError, match="shares must be 2 numbers, one a source, got 1"):
        MixtureConfig(sources=(EmojiConfig(), EmojiConfig()), shares=(1.0,))
