"""Graphs for other runtimes: what they give is what the model gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clippo.cli import main
from clippo.errors import UserError
from clippo.export import export
from model import Clippo, create_model, save_big_vision


@pytest.fixture(scope="module")
def clippo():
    torch.manual_seed(0)
    return create_model("clippo-mu16", image_size=64, out_dim=8).eval()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def test_torch_export(clippo, pixels, tmp_path):
    assert export(clippo, tmp_path / "x.pt2") < 1e-5
    module = torch.export.load(tmp_path / "x.pt2").module()
    for batch in (1, 3):
        expected = clippo.encode_image(pixels[:batch])
        torch.testing.assert_close(module(torch.from_numpy(pixels[:batch])), expected, atol=1e-5, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt2"]


def test_onnx(clippo, pixels, tmp_path):
    """Photographs and rendered text, through onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert export(clippo, tmp_path / "x.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    [z_images] = session.run(None, {"images": pixels})
    np.testing.assert_allclose(z_images, clippo.encode_image(pixels), atol=1e-5)
    texts = clippo.render(["a cat"]).numpy()
    [z_texts] = session.run(None, {"images": np.repeat(texts[..., None], 3, axis=3)})
    np.testing.assert_allclose(z_texts, clippo.encode_text(texts), atol=1e-5)


def test_what_differs_is_not_kept(clippo, tmp_path, monkeypatch):
    monkeypatch.setattr("clippo.export.TOLERANCE", -1.0)
    (tmp_path / "x.pt2").write_bytes(b"of before")
    with pytest.raises(UserError, match="the exported model differs by"):
        export(clippo, tmp_path / "x.pt2")
    assert (tmp_path / "x.pt2").read_bytes() == b"of before"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_exported(clippo, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"must end in \.pt2 or \.onnx, got .*x\.pth"):
        export(clippo, tmp_path / "x.pth")
    monkeypatch.setattr("clippo.export.ONNX_BYTES", 1000)
    with pytest.raises(UserError, match="at most 2 GiB"):
        export(clippo, tmp_path / "x.onnx")


def test_command(clippo, tmp_path, capsys):
    """From every kind of file; a broken one is a line of complaint."""
    save_big_vision(clippo, tmp_path / "x.npz")
    clippo.save_pretrained(tmp_path / "folder")
    for source in ("x.npz", "folder"):
        main(["export", str(tmp_path / source), "--out", str(tmp_path / "x.pt2")])
        printed = capsys.readouterr().out
        assert "x.pt2: 0.4 MiB, differs by at most" in printed
        assert "for photographs alone" not in printed
    inked = Clippo(replace(clippo.config, text_tokens="inked"))
    inked.save_pretrained(tmp_path / "folder")
    main(["export", str(tmp_path / "folder"), "--out", str(tmp_path / "x.pt2")])
    assert "for photographs alone" in capsys.readouterr().out
    (tmp_path / "x.npz").write_bytes(b"broken")
    for source in ("x.npz", "none"):
        with pytest.raises(SystemExit):
            main(["export", str(tmp_path / source), "--out", str(tmp_path / "y.pt2")])
        assert "clippo: cannot read a model from" in capsys.readouterr().err
    assert not (tmp_path / "y.pt2").exists()
