"""Configurations to and from JSON, and parts that are chosen by name."""

from dataclasses import replace

import pytest

from clippo.data.emoji import EmojiConfig
from clippo.model import ByteTextConfig, ClippoConfig, RenderedTextConfig, TowerConfig
from clippo.model.configs import choices, flat, from_dict, is_kind, kind_of, to_dict
from clippo.model.text_input import TextInputConfig
from clippo.recipes.emoji import recipe
from clippo.training.config import TrainConfig
from clippo.training.losses import LossConfig, SigmoidLossConfig


def test_kinds_and_choices():
    assert is_kind(LossConfig)
    assert not is_kind(SigmoidLossConfig)
    assert kind_of(SigmoidLossConfig) is LossConfig
    assert kind_of(TowerConfig) is None
    assert choices(TextInputConfig) == {"bytes": ByteTextConfig, "rendered": RenderedTextConfig}
    assert list(choices(LossConfig)) == ["sigmoid", "softmax"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"loss": SigmoidLossConfig(initial_bias=-3.0)},
        {"data": EmojiConfig(languages=("en", "ja"))},
        {"model": replace(recipe().model, text=ByteTextConfig(max_bytes=9), num_towers=2)},
        {"evaluators": {}},
    ],
)
def test_a_configuration_survives_json(change):
    config = replace(recipe(), **change)
    assert from_dict(TrainConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 30}, "num_heads must divide width"),
        ({"colour": 1}, "the configuration has no field colour"),
        ({"text": {"type": "spoken"}}, "text.type must be one of bytes, rendered, got 'spoken'"),
        ({"text": {"type": "bytes", "tokens": "all"}}, "text has no field tokens"),
        ({"text": "inked"}, "text must be an object, got 'inked'"),
        ({"text": {}}, "text.type must be one of bytes, rendered, got None"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    content = to_dict(replace(recipe().model, num_heads=4))
    with pytest.raises(ValueError, match=message):
        from_dict(ClippoConfig, content | change)
    with pytest.raises(ValueError, match="depth is missing"):
        from_dict(ClippoConfig, {key: value for key, value in content.items() if key != "depth"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 41.5}, "steps must be an integer, got 41.5"),
        ({"steps": None}, "steps must be an integer, got None"),
        ({"steps": float("nan")}, "steps must be an integer, got nan"),
        ({"steps": True}, "steps must be an integer, got True"),
        ({"learning_rate": "0.1"}, "learning_rate must be a number, got '0.1'"),
        ({"grad_checkpointing": 1}, "grad_checkpointing must be true or false, got 1"),
        ({"data": {"type": "emoji", "languages": ["en", 3]}}, "data.languages.1 must be a string, got 3"),
    ],
)
def test_values_of_other_types_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TrainConfig, to_dict(recipe()) | change)
    assert from_dict(TrainConfig, to_dict(recipe()) | {"learning_rate": 1}).learning_rate == 1


def test_flat():
    assert flat({"a": {"b": 1, "c": {}}, "d": 2}) == {"a.b": 1, "d": 2}
