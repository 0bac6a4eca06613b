import json

import pytest
import torch

from clippo.errors import UserError
from clippo.evaluation.prompts import canonical, class_embeddings, read_prompts
from tests.clippo.evaluation.conftest import Told


def test_texts_are_canonical_as_in_the_reference(reference_dir):
    ref = json.loads((reference_dir / "evaluation" / "prompts_ref.json").read_text())
    assert [canonical(text, keep="{}") for text in ref["in"]] == ref["canon"]
    assert [canonical(text, keep=",") for text in ref["in"]] == ref["canon_comma"]


@pytest.mark.parametrize(("which", "count"), [("class_name_only", 1), ("short", 8), ("long", 81)])
def test_every_set_has_the_class_name_in_each_prompt(which, count):
    prompts = read_prompts(which)
    assert len({canonical(prompt, keep="{}") for prompt in prompts}) == count
    assert prompts[0] == "{}"
    assert all(prompt.count("{}") == 1 for prompt in prompts)


def test_prompts_of_files(tmp_path):
    lines = tmp_path / "zeroshot_classification_templates.txt"
    lines.write_text("a photo of a {c}.\n\nart of {}\n")
    assert read_prompts(str(lines)) == ["a photo of a {}.", "art of {}"]
    file = tmp_path / "en.json"
    file.write_text(json.dumps({"cars": ["my {c}!"], "none": [], "wrong": "{c}", "bare": ["a car"]}))
    assert read_prompts(f"{file}#cars") == ["my {}!"]
    for which, message in {
        "best": "prompts must be class_name_only, short, long or a file, got 'best'",
        f"{file}": r"en\.json has prompts of cars, none, wrong, bare: name one, .*; got ''",
        f"{file}#none": "#none holds no prompts",
        f"{file}#wrong": r"#wrong must be a list of strings, got \{c\}",
        f"{file}#bare": r"#bare: a prompt must have \{c\} in the place of the class, got 'a car'",
    }.items():
        with pytest.raises(UserError, match=message):
            read_prompts(which)
    file.write_text("{")
    with pytest.raises(UserError, match=r"en\.json is not JSON"):
        read_prompts(f"{file}#cars")


def test_a_class_is_the_mean_of_its_prompts_of_unit_length(monkeypatch):
    monkeypatch.setattr("clippo.evaluation.prompts.TEXTS", 3)
    texts = {
        "a": [1.0, 0],
        "my a": [0, 1.0],
        "b": [0.6, 0.8],
        "my b": [0.8, 0.6],
        "{c}": [1.0, 0],
        "my {c}": [-1.0, 0],
    }
    model = Told({}, {text: torch.tensor(vector) for text, vector in texts.items()})
    found = class_embeddings(model, ["a", "b", "{c}"], ["{}", "my {}"])
    half = 0.5**0.5
    expected = torch.tensor([[half, half], [half, half], [0, 0]], dtype=torch.float64)  # opposite ones cancel
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
