from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from clippo.errors import UserError
from clippo.training.schedules import ConstantConfig, CosineConfig, RsqrtConfig


def factors(schedule, steps, warmup_steps):
    return [schedule.factor(step, steps=steps, warmup_steps=warmup_steps) for step in range(steps)]


def test_cosine_warms_up_and_ends_near_zero():
    found = factors(CosineConfig(), 1000, 100)
    assert 0 < found[0] < 0.02
    assert max(found) == pytest.approx(0.97, abs=0.03)
    assert 90 <= found.index(max(found)) <= 100
    assert found[-1] < 1e-4
    assert all(a > b for a, b in pairwise(found[100:]))


def test_constant_warms_up_stays_and_falls():
    assert factors(ConstantConfig(), 8, 4) == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert factors(ConstantConfig(cooldown_steps=4), 8, 2) == [0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25]
    assert factors(ConstantConfig(), 3, 0) == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "steps", "scale"),
    [("paper100k", 100_000, 10_000), ("paper250k", 250_000, 10_000), ("coco400", 400, 100)],
)
def test_rsqrt_is_that_of_the_published_models(reference_dir, name, steps, scale):
    with np.load(reference_dir / "model" / "sched.npz") as file:
        expected, at = file[name], file[f"{name}_steps"].tolist()
    schedule = RsqrtConfig(timescale=scale, cooldown_steps=scale)
    found = [schedule.factor(step, steps=steps, warmup_steps=scale) for step in at]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_what_does_not_fit_is_refused(tiny_config):
    with pytest.raises(UserError, match="cooldown_steps must fit into the 9 steps of the run, got 5 and 6"):
        replace(tiny_config, steps=9, warmup_steps=5, schedule=ConstantConfig(cooldown_steps=6))
    with pytest.raises(UserError, match="schedule.cooldown_steps must not be negative, got -1"):
        ConstantConfig(cooldown_steps=-1)
    with pytest.raises(UserError, match="schedule.timescale must be at least 1, got 0"):
        RsqrtConfig(timescale=0)
