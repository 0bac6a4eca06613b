"""What the README shows runs, in the order it is shown."""

import re
from pathlib import Path

from clippo.model import create_model, save_big_vision

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Of the name and layout of a published one, smaller.
    save_big_vision(create_model("clippo-ti16"), "clippo_b16_yfcc100m.npz")
    examples = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(examples) >= 3
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(README), "exec"), names)  # noqa: S102 - our own README
    assert tuple(names["pooled"].shape) == (3, 3, 64)
    assert tuple(names["tokens"].shape) == (8, 196, 192)
    assert tuple(names["packed"].shape) == (4, 192)
    assert tuple(names["similarity"].shape) == (2, 2)
    assert tuple(names["probabilities"].shape) == (2, 3)
