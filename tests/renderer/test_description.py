"""Renderers by name, their configurations, and what is kept of them in files."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from clippo.renderer import (
    AlignedParagraphRendererConfig,
    AlignedRenderer,
    AlignedRendererConfig,
    ParagraphRenderer,
    ParagraphRendererConfig,
    UnifontRenderer,
    UnifontRendererConfig,
    from_description,
    inked_patches,
    renderer_configs,
)

TEXTS = ["A Cat", "صورة قطة", ""]
RENDERERS = [
    UnifontRenderer(48, lower=False, background=200),
    ParagraphRenderer((32, 64), font_size=12, overflow="shrink"),
    AlignedRenderer(96, align="cell", patch_size=32, lower=False),
]


def test_configurations_are_found_by_name():
    assert renderer_configs() == {
        "aligned": AlignedRendererConfig,
        "aligned-paragraph": AlignedParagraphRendererConfig,
        "paragraph": ParagraphRendererConfig,
        "unifont": UnifontRendererConfig,
    }
    for config in renderer_configs().values():
        renderer = config().build(64)
        assert renderer.config == config()
        assert renderer.image_shape == (64, 64)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_renderer_is_its_size_and_its_options(renderer):
    same = type(renderer)(renderer.size, **dataclasses.asdict(renderer.config))
    assert same == renderer
    assert hash(same) == hash(renderer)
    assert eval(repr(renderer)) == renderer  # noqa: S307
    assert type(renderer)(64) != renderer
    np.testing.assert_array_equal(same(TEXTS), renderer(TEXTS))


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_description_makes_the_renderer_again(renderer):
    again = from_description(json.loads(json.dumps(renderer.description)))
    assert again.description == renderer.description
    np.testing.assert_array_equal(again(TEXTS), renderer(TEXTS))


def test_descriptions_of_earlier_versions_are_read():
    options = {"size": 48, "font_size": 16, "max_chars": 768, "background": 127, "ink": 0, "lower": True}
    options |= {"monospace": False, "spacing": 1, "min_width": 4}
    assert from_description({"renderer": "UnifontRenderer", "options": options}) == UnifontRenderer(48)
    assert UnifontRenderer(48).description["options"] == options
    fonts = {"unifont.otf": "a hash", "unifont_upper.otf": "another"}
    described = {"renderer": "ParagraphRenderer", "options": {"size": 48}, "fonts": fonts}
    assert from_description(described) == ParagraphRenderer(48)


def test_a_configuration_is_checked_without_fonts(monkeypatch):
    monkeypatch.setattr("clippo.renderer.fonts.SYSTEM_FONT_FOLDERS", ())
    assert ParagraphRendererConfig(fonts=["a.otf"]).fonts == ("a.otf",)
    with pytest.raises(ValueError, match="ink must be from 0 to 255, not 256"):
        UnifontRendererConfig(ink=256)
    with pytest.raises(TypeError, match="font_size must be an integer, not 1.5"):
        ParagraphRendererConfig(font_size=1.5)
    with pytest.raises(TypeError, match="font_path must be a path, not 3"):
        UnifontRendererConfig(font_path=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        UnifontRenderer(64, colour=1)


@pytest.mark.parametrize("config", [ParagraphRendererConfig(ink=3), UnifontRendererConfig(lower=False)])
def test_configurations_pass_through_json(config):
    assert type(config)(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_new_renderer_is_one_new_module(tmp_path, monkeypatch):
    (tmp_path / "inverse.py").write_text(
        "from dataclasses import dataclass\n"
        "from clippo.renderer.unifont import UnifontRendererConfig\n"
        "from clippo.renderer.base import RendererConfig\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class InverseRendererConfig(RendererConfig):\n"
        "    name = 'inverse'\n"
        "    def build(self, size):\n"
        "        return UnifontRendererConfig(ink=255, background=0).build(size)\n"
    )
    run = (
        "import clippo.renderer\n"
        f"clippo.renderer.__path__.append({str(tmp_path)!r})\n"
        "print(sorted(clippo.renderer.renderer_configs()))\n"
    )
    printed = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True).stdout
    assert printed == "['aligned', 'aligned-paragraph', 'inverse', 'paragraph', 'unifont']\n"


def test_the_package_needs_neither_torch_nor_skia_until_it_draws():
    run = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['skia'] = None\n"  # an import of these would fail
        "from clippo.renderer import renderer_configs\n"
        "print([config().ink for config in renderer_configs().values()])\n"
    )
    printed = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True).stdout
    assert printed == "[0, 0, 0, 0]\n"


@pytest.mark.parametrize("kind", [None, "Renderer", ["UnifontRenderer"]])
def test_other_descriptions_are_refused(kind):
    with pytest.raises(ValueError, match="not the description of a renderer"):
        from_description({"renderer": kind, "options": {}})
    with pytest.raises(ValueError, match="not the options of a UnifontRenderer"):
        from_description({"renderer": "UnifontRenderer", "options": {"colour": 1}})


@pytest.mark.parametrize("patch_size", [16, 4, 3])
def test_ink_of_arrays_and_tensors(patch_size):
    rng = np.random.default_rng(0)
    images = np.where(rng.random((5, 48, 96)) < 0.01, 0, 127).astype(np.uint8)
    grid = images.reshape(5, 48 // patch_size, patch_size, 96 // patch_size, patch_size)
    expected = (grid != 127).any(axis=(2, 4))
    np.testing.assert_array_equal(inked_patches(images, patch_size, 127), expected)
    np.testing.assert_array_equal(inked_patches(images[:, ::-1], patch_size, 127), expected[:, ::-1])
    np.testing.assert_array_equal(inked_patches(torch.from_numpy(images), patch_size, 127).numpy(), expected)
    np.testing.assert_array_equal(inked_patches(images.astype(np.float32), patch_size, 127), expected)
    for uneven in (images[:, :, :50], torch.from_numpy(images[:, :, :50])):
        with pytest.raises(
            ValueError, match=f"patch_size must divide the image, 48 x 50 px, got {patch_size}"
        ):
            inked_patches(uneven, patch_size, 127)


def test_ink_of_a_traced_batch_of_any_size():
    class Inked(torch.nn.Module):
        def forward(self, images):
            return inked_patches(images, 16, 127)

    few, many = (torch.from_numpy(UnifontRenderer(48)(["a cat"] * n)) for n in (2, 7))
    program = torch.export.export(Inked(), (few,), dynamic_shapes={"images": {0: torch.export.Dim("B")}})
    assert torch.equal(program.module()(many), inked_patches(many, 16, 127))
