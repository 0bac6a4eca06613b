import pytest
from PIL import Image

from clippo.bench.studies import plot_tower


@pytest.mark.slow
def test_draws_a_picture_and_its_caption(tmp_path, monkeypatch, capsys):
    out = tmp_path / "img" / "tower.png"
    monkeypatch.setattr("sys.argv", ["plot_tower", "--emoji", "🐈", "--text", "a cat", "--out", str(out)])
    assert plot_tower.main() == 0
    assert str(out) in capsys.readouterr().out
    with Image.open(out) as picture:
        colors = picture.convert("RGB").getcolors(maxcolors=picture.width * picture.height)
    assert {(217, 130, 43), (43, 108, 176)} <= {color for _, color in colors}  # tokens of either kind
