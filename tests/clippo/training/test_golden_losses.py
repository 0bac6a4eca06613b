"""The first 200 losses of the emoji recipe, recorded on one thread.

A change that is not meant to change the arithmetic must reproduce them to the last bit. On another machine
PyTorch sums in another order, and only the first losses are compared, with a tolerance.
`python -m tests.clippo.training.test_golden_losses` records them anew.
"""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from clippo.data.order import WeightedOrder
from clippo.recipes.emoji import recipe
from clippo.training.trainer import train

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS = 200


def machine() -> dict[str, str]:
    """Properties of a machine that decide on the bits of a float32 computation on one thread."""
    info = Path("/proc/cpuinfo")
    found = dict(
        re.findall(r"^(cpu family|model)\s*: (\d+)$", info.read_text() if info.exists() else "", re.M)
    )
    return {
        "cpu": f"family {found.get('cpu family')} model {found.get('model')}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


class EnoughError(Exception):
    pass


def first_losses(folder: Path) -> list[float]:
    """Losses of the recipe's first steps, on one thread."""
    batch = WeightedOrder.__call__

    def cut(self, step):
        if step == STEPS:
            raise EnoughError
        return batch(self, step)

    config = dataclasses.replace(recipe(), log_every=1, workers=0, evaluators={})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WeightedOrder, "__call__", cut)
            with pytest.raises(EnoughError):
                train(config, folder)
    finally:
        torch.set_num_threads(threads)
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_first_losses(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    expected = [float.fromhex(loss) for loss in golden["losses"]]
    losses = first_losses(tmp_path / "run")
    if machine() == golden["machine"]:
        assert losses == expected
    else:
        assert len(losses) == STEPS
        assert losses[:50] == pytest.approx(expected[:50], rel=1e-3)


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        record = {"machine": machine(), "losses": [x.hex() for x in first_losses(Path(folder) / "run")]}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
