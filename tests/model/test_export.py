"""Graphs for other runtimes: what they give is what the model gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clippo.cli import main
from clippo.model import ByteTextConfig, Clippo, RenderedTextConfig, create_model, save_big_vision
from clippo.model.export import export, export_patches
from clippo.renderer import AlignedRenderer


@pytest.fixture(scope="module")
def clippo():
    torch.manual_seed(0)
    return create_model("clippo-mu16", image_size=64, embed_dim=8).eval()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.mark.slow
def test_torch_export(clippo, pixels, tmp_path):
    assert export(clippo, tmp_path / "x.pt2") < 1e-5
    module = torch.export.load(tmp_path / "x.pt2").module()
    for batch in (1, 3):
        expected = clippo.encode_image(pixels[:batch])
        torch.testing.assert_close(module(torch.from_numpy(pixels[:batch])), expected, atol=1e-5, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt2"]


@pytest.mark.long
def test_onnx(clippo, pixels, tmp_path):
    """Photographs and rendered text, through onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert export(clippo, tmp_path / "x.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    [z_images] = session.run(None, {"images": pixels})
    np.testing.assert_allclose(z_images, clippo.encode_image(pixels), atol=1e-5)
    texts = clippo.tokenize(["a cat"]).numpy()  # which the same graph reads
    [z_texts] = session.run(None, {"images": np.repeat(texts[..., None], 3, axis=3)})
    np.testing.assert_allclose(z_texts, clippo.encode_text(texts), atol=1e-5)


@pytest.mark.parametrize("text_tokens", ["all", "inked"])
@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_texts(clippo, tmp_path, text_tokens, ending):
    """Of different lengths, a blank one among them; blank patches count where the model reads them."""
    own = Clippo(replace(clippo.config, text=RenderedTextConfig(tokens=text_tokens))).eval()
    own.load_state_dict(clippo.state_dict())
    texts = own.tokenize(["", "a cat", "a longer text that inks many patches"])
    path = tmp_path / f"x.{ending}"
    if ending == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        assert export(own, path, texts=True) < 1e-5
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        z = torch.from_numpy(session.run(None, {"texts": texts.numpy()})[0])
    else:
        assert export(own, path, texts=True) < 1e-5
        z = torch.export.load(path).module()(texts)
    torch.testing.assert_close(z, own.encode_text(texts), atol=1e-5, rtol=1e-5)
    others = "all" if text_tokens == "inked" else "inked"
    other = Clippo(replace(clippo.config, text=RenderedTextConfig(tokens=others))).eval()
    other.load_state_dict(clippo.state_dict())
    assert (z - other.encode_text(texts)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_patches(clippo, pixels, tmp_path, ending):
    """One graph for photographs and for texts of any number of patches."""
    own = Clippo(replace(clippo.config, text=RenderedTextConfig(tokens="inked")), AlignedRenderer(64)).eval()
    own.load_state_dict(clippo.state_dict())
    path = tmp_path / f"x.{ending}"
    if ending == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    assert export_patches(own, path) < 1e-5
    if ending == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def embedding(pixels, positions):
        if ending == "onnx":
            inputs = {"pixels": pixels, "positions": positions.astype(np.int32)}
            return torch.from_numpy(session.run(None, inputs)[0])
        return torch.export.load(path).module()(
            torch.from_numpy(pixels), torch.from_numpy(positions.astype(np.int32))
        )

    texts = ["", "a cat", "a longer text that inks many patches"]
    packed = own.renderer.render_packed(texts)
    for text, start, end in zip(texts, packed.cu_seqlens, packed.cu_seqlens[1:], strict=False):
        grey = np.repeat(packed.pixels[start:end, ..., None], 3, axis=3)
        z = embedding(grey, packed.positions[start:end])
        torch.testing.assert_close(z, own.encode_text([text]), atol=1e-5, rtol=1e-5)
    patches = pixels[0].reshape(4, 16, 4, 16, 3).swapaxes(1, 2).reshape(16, 16, 16, 3)
    z = embedding(patches, np.arange(16))
    torch.testing.assert_close(z, own.encode_image(pixels[:1]), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_what_differs_is_not_kept(clippo, tmp_path, monkeypatch):
    monkeypatch.setattr("clippo.model.export.TOLERANCE", -1.0)
    (tmp_path / "x.pt2").write_bytes(b"of before")
    with pytest.raises(ValueError, match="the exported model differs by"):
        export(clippo, tmp_path / "x.pt2")
    assert (tmp_path / "x.pt2").read_bytes() == b"of before"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_exported(clippo, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must end in \.pt2 or \.onnx, got .*x\.pth"):
        export(clippo, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="there is no graph of its patches"):
        export_patches(Clippo(replace(clippo.config, text=ByteTextConfig())), tmp_path / "x.pt2")
    with pytest.raises(ValueError, match="reads text as bytes"):
        export(Clippo(replace(clippo.config, text=ByteTextConfig())), tmp_path / "x.pt2", texts=True)
    monkeypatch.setattr("clippo.model.export.ONNX_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 2 GiB"):
        export(clippo, tmp_path / "x.onnx")


@pytest.mark.slow
def test_command(clippo, tmp_path, capsys):
    """From every kind of file; a broken one is a line of complaint."""
    save_big_vision(clippo, tmp_path / "x.npz")
    clippo.save_pretrained(tmp_path / "folder")
    for source in ("x.npz", "folder"):
        main(["export", str(tmp_path / source), "--out", str(tmp_path / "x.pt2")])
        assert "x.pt2: 0.4 MiB, differs by at most" in capsys.readouterr().out
    main(["export", str(tmp_path / "folder"), "--texts", "--out", str(tmp_path / "texts.pt2")])
    texts = clippo.tokenize(["a cat"])
    z = torch.export.load(tmp_path / "texts.pt2").module()(texts)
    torch.testing.assert_close(z, clippo.encode_text(texts), atol=1e-5, rtol=1e-5)
    (tmp_path / "x.npz").write_bytes(b"broken")
    for source in ("x.npz", "none"):
        with pytest.raises(SystemExit):
            main(["export", str(tmp_path / source), "--out", str(tmp_path / "y.pt2")])
        assert "clippo: cannot read a model from" in capsys.readouterr().err
    assert not (tmp_path / "y.pt2").exists()
