import json
import os
import re
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clippo.model import Clippo, ClippoConfig, RenderedTextConfig, create_model
from clippo.model.checkpoints.names import unwrapped_name
from clippo.renderer import ParagraphRenderer, UnifontRenderer

SMALL = ClippoConfig(width=16, depth=1, mlp_dim=32, num_heads=2, patch_size=8, image_size=16, embed_dim=8)
LARGER = replace(SMALL, patch_size=16, image_size=48)  # has room for text


@pytest.fixture
def clippo() -> Clippo:
    return Clippo(SMALL)


def test_round_trip(clippo, tmp_path):
    clippo.save_pretrained(tmp_path / "new" / "folder")
    loaded = Clippo.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == clippo.config
    for name, value in clippo.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_the_memory_format_does_not_matter(clippo, tmp_path):
    clippo.save_pretrained(tmp_path / "contiguous")
    clippo.to(memory_format=torch.channels_last).save_pretrained(tmp_path / "channels_last")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("contiguous", "channels_last")]
    assert files[0] == files[1]


def wrapped_parts():
    compiled, blocks, ddp = Clippo(SMALL), Clippo(SMALL), Clippo(SMALL)
    compiled.tower = torch.compile(compiled.tower)
    for i, block in enumerate(blocks.tower.encoder.blocks):
        blocks.tower.encoder.blocks[i] = torch.compile(block)
    ddp.tower = nn.Sequential()
    ddp.tower.module = Clippo(SMALL).tower  # the name that DistributedDataParallel gives it
    return {"tower": compiled, "blocks": blocks, "DistributedDataParallel": ddp}


@pytest.mark.parametrize("name", wrapped_parts())
def test_wrapped_parts_are_saved_under_their_own_names(tmp_path, name):
    model = wrapped_parts()[name]
    model.save_pretrained(tmp_path)
    loaded = Clippo.from_pretrained(tmp_path).state_dict()
    assert loaded.keys() == Clippo(SMALL).state_dict().keys()
    for (ours, value), other in zip(sorted(loaded.items()), sorted(model.state_dict().items()), strict=True):
        assert ours == unwrapped_name(other[0])
        assert torch.equal(value, other[1])


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_wrapped_models_are_read(clippo, tmp_path, prefix):
    clippo.save_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    tensors = {prefix + name: value for name, value in clippo.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = Clippo.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in clippo.state_dict().items())


def test_what_is_missing_is_named(clippo, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        Clippo.from_pretrained(tmp_path)
    clippo.save_pretrained(tmp_path)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).unlink()
        with pytest.raises(ValueError, match=rf"{name} is missing, and manifest\.json names it"):
            Clippo.from_pretrained(tmp_path)
        clippo.save_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        Clippo.from_pretrained(tmp_path)
    Clippo(LARGER, UnifontRenderer(48)).save_pretrained(tmp_path)
    (tmp_path / "renderer.json").unlink()
    with pytest.raises(ValueError, match=r"renderer\.json is missing"):
        Clippo.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "renderer.json", "manifest.json"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name):
    Clippo(LARGER, UnifontRenderer(48)).save_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is not a file"):
        Clippo.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "renderer.json"])
def test_an_edited_description_is_found(tmp_path, name):
    Clippo(LARGER, UnifontRenderer(48)).save_pretrained(tmp_path)
    file = tmp_path / name
    file.write_text(file.read_text().replace(": ", ":  ", 1))
    with pytest.raises(ValueError, match=f"{name} is damaged: its checksum is not the one"):
        Clippo.from_pretrained(tmp_path)


def test_names_from_a_file_do_not_steer_the_terminal(clippo, tmp_path):
    clippo.save_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    save_file({**clippo.state_dict(), "\x1b[2J": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"differ\. \\x1b\[2J: expected nothing"):
        Clippo.from_pretrained(tmp_path)
    rewritten(tmp_path / "config.json", lambda config: config | {"\x1b[2J": 1})
    with pytest.raises(ValueError, match=r"has no field \\x1b\[2J"):
        Clippo.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", ["\x1b[2J", "7" * 10**6])
def test_values_of_a_description_do_not_fill_the_terminal(tmp_path, value):
    Clippo(LARGER, UnifontRenderer(48)).save_pretrained(tmp_path)
    rewritten(tmp_path / "renderer.json", lambda it: it | {"fonts": [{"file": value, "sha256": value}]})
    with pytest.warns(UserWarning, match="drawn differently") as warned:
        Clippo.from_pretrained(tmp_path).encode_text(["a"])
    message = str(warned[0].message)
    assert message.isprintable()
    assert len(message) < 2100


def rewritten(file, change):
    """Change a file of a model as its owner may: without a manifest."""
    file.with_name("manifest.json").unlink(missing_ok=True)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content)))


def test_others_may_read_the_weights(clippo, tmp_path):
    clippo.save_pretrained(tmp_path)
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_flipped_bit_is_found(clippo, tmp_path):
    clippo.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: its checksum is not the one"):
        Clippo.from_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()  # as in folders of others
    Clippo.from_pretrained(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        Clippo.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.round().int(), "tower.encoder.norm.weight must hold floating numbers, got I32"),
        (lambda x: x > 0, "tower.encoder.norm.weight must hold floating numbers, got BOOL"),
        (lambda x: x / 0, "tower.encoder.norm.weight holds values that are not finite"),
        (lambda x: x.half(), None),
    ],
)
def test_tensors_of_other_dtypes(clippo, tmp_path, change, message):
    clippo.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["tower.encoder.norm.weight"] = change(tensors["tower.encoder.norm.weight"])
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "manifest.json").unlink()
    if message is None:
        assert Clippo.from_pretrained(tmp_path).tower.encoder.norm.weight.dtype == torch.float32
    else:
        with pytest.raises(ValueError, match=message):
            Clippo.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 2}, r"tower.encoder.blocks.1.norm1.weight: expected \(16,\), found nothing"),
        ({"width": 32}, r"expected \(32, 3, 8, 8\), found \(16, 3, 8, 8\)"),
        ({"width": "16"}, "width must be an integer"),
        ({"dropout": 0.1}, "dropout"),
        ({"depth": 10**6}, "depth must be an integer from 1 to 512"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(clippo, tmp_path, change, message):
    clippo.save_pretrained(tmp_path)
    rewritten(tmp_path / "config.json", lambda config: config | change)
    with pytest.raises(ValueError, match=message):
        Clippo.from_pretrained(tmp_path)


def test_broken_files_are_refused(clippo, tmp_path):
    clippo.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="is damaged"):
        Clippo.from_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Clippo.from_pretrained(tmp_path)
    tensors = {name: value for name, value in clippo.state_dict().items() if name != "logit_scale"}
    save_file(tensors, weights)
    assert "logit_scale" not in load_file(weights)
    with pytest.raises(ValueError, match="logit_scale"):
        Clippo.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="not the configuration"):
        Clippo.from_pretrained(tmp_path)


def test_text_tokens_are_kept(tmp_path):
    model = create_model("clippo-mu16", image_size=32, embed_dim=8, text_tokens="inked")
    model.save_pretrained(tmp_path)
    assert Clippo.from_pretrained(tmp_path).config.text == RenderedTextConfig(tokens="inked")


@pytest.mark.parametrize("tokens", ["all", "inked"])
def test_folders_of_version_0_are_converted(tmp_path, tokens):
    """They had a scalar temperature, flat names of tensors, and other names of some sizes."""
    model = create_model("clippo-mu16", image_size=32, embed_dim=8, text_tokens=tokens)
    model.save_pretrained(tmp_path)
    old = {"width": 32, "depth": 1, "mlp_dim": 128, "heads": 2, "patch_size": 16, "image_size": 32}
    old |= {"out_dim": 8, "text_tokens": tokens}
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "manifest.json").unlink()
    state = {
        re.sub(r"^tower\.(encoder\.|patch_embed\.(?=pos_embed))|(?<=patch_)embed\.", old_name, name): value
        for name, value in model.state_dict().items()
        if name != "logit_scale"
    }
    assert {"tower.patch_weight", "tower.pos_embed", "tower.blocks.0.attn.qkv.weight"} < state.keys()
    save_file(state | {"log_scale": model.logit_scale.detach()[0]}, tmp_path / "model.safetensors")
    loaded = Clippo.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def old_name(match: re.Match[str]) -> str:
    return "tower." if match[1] else ""


def test_the_renderer_is_made_again_from_its_description(tmp_path, recwarn):
    """A model reads strings with the renderer that it was saved with, nothing else being said."""
    for renderer in (UnifontRenderer(48, lower=False), ParagraphRenderer(48, ink=255, background=0)):
        model = Clippo(LARGER, renderer)
        model.save_pretrained(tmp_path)
        loaded = Clippo.from_pretrained(tmp_path)
        assert loaded.text_input.background == renderer.background
        assert torch.equal(loaded.encode_text(["A Cat"]), model.encode_text(["A Cat"]))
        assert loaded.renderer.description == renderer.description
        # Passed on by a model that never drew a string.
        Clippo.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
        assert Clippo.from_pretrained(tmp_path / "again").renderer.description == renderer.description
    Clippo(LARGER).save_pretrained(tmp_path)
    assert not (tmp_path / "renderer.json").exists()
    assert not recwarn.list


def test_fonts_that_are_described_as_they_once_were(tmp_path, recwarn):
    Clippo(LARGER, UnifontRenderer(48)).save_pretrained(tmp_path)
    rewritten(
        tmp_path / "renderer.json",
        lambda old: old | {"fonts": {font["file"]: font["sha256"] for font in old["fonts"]}},
    )
    Clippo.from_pretrained(tmp_path).encode_text(["a cat"])
    assert not recwarn.list


def test_a_described_renderer_with_other_fonts_is_warned_of(clippo, tmp_path):
    Clippo(LARGER, UnifontRenderer(48)).save_pretrained(tmp_path)
    description = json.loads((tmp_path / "renderer.json").read_text())
    index = [font["file"] for font in description["fonts"]].index("unifont.otf")
    description["fonts"][index]["sha256"] = "another"
    rewritten(tmp_path / "renderer.json", lambda _: description)
    model = Clippo.from_pretrained(tmp_path)  # no word yet: strings may never come
    with pytest.warns(UserWarning, match=rf"drawn differently: fonts\.{index}\.sha256 was another, is"):
        model.encode_text(["a cat"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"renderer": "os.system"}, "not the description of a renderer: 'os.system'"),
        ({"options": {"size": 48, "colour": 1}}, "not the options of a UnifontRenderer.*colour"),
        ({"options": {"size": 10**9}}, "must draw images of 48 px, as the model reads, not 1000000000"),
        ({"options": {"size": "48"}}, "must draw images of 48 px, as the model reads, not 48"),
        ({"options": {"size": 48, "patch_size": 8}}, "must have the patch_size of the model, 16, not 8"),
        ({"options": {"size": 48, "spacing": 10**30}}, "spacing must be from 0 to 32767"),
        ({"options": []}, "does not describe a renderer"),
    ],
)
def test_a_description_that_is_none(tmp_path, change, message):
    Clippo(LARGER, UnifontRenderer(48)).save_pretrained(tmp_path)
    rewritten(tmp_path / "renderer.json", lambda description: description | change)
    with pytest.raises(ValueError, match=message):
        Clippo.from_pretrained(tmp_path).encode_text(["a"])


def test_a_described_renderer_of_another_size_is_refused(tmp_path):
    Clippo(LARGER, UnifontRenderer(48)).save_pretrained(tmp_path)
    rewritten(
        tmp_path / "renderer.json",
        lambda description: description | {"options": description["options"] | {"size": 64}},
    )
    message = "the renderer must draw images of 48 px, as the model reads, not 64"
    with pytest.raises(ValueError, match=message):
        Clippo.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        Clippo(LARGER, UnifontRenderer(64))


# -- the Hub


def test_from_the_hub(clippo, tmp_path, monkeypatch):
    """By huggingface_hub itself, from its cache, without the network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    commits = {"main": "a" * 40, "v1": "b" * 40}
    repository = tmp_path / "models--someone--clippo"
    for name, commit in commits.items():
        clippo.logit_scale.data.fill_(float(name == "main"))
        clippo.save_pretrained(repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Clippo.from_pretrained("someone/clippo").logit_scale == 1
    for revision in ("v1", "b" * 40):
        assert Clippo.from_pretrained("someone/clippo", revision=revision).logit_scale == 0
    with pytest.raises(
        FileNotFoundError, match="runs/none is no folder here, and cannot be fetched from the Hub"
    ):
        Clippo.from_pretrained("runs/none")


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"someone/clippo is no folder here.*clippo-kernels\[hub\]"):
        Clippo.from_pretrained("someone/clippo")


def test_a_folder_has_no_revision(clippo, tmp_path):
    clippo.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="revision is for names on the Hub"):
        Clippo.from_pretrained(tmp_path, revision="main")
    for path in ("./a/b", "../a", "/a/b", "a/b/c", "none"):
        with pytest.raises(FileNotFoundError):
            Clippo.from_pretrained(path)


class Renderer:
    """As much of one as a checkpoint needs."""

    background = 127

    def __init__(self, **description):
        self.description = description

    def __call__(self, texts):
        raise AssertionError


def test_another_renderer_is_warned_of(clippo, tmp_path, recwarn):
    clippo.text_input.renderer = Renderer(options={"size": 16, "ink": 0}, fonts={"a.otf": "12"})
    clippo.save_pretrained(tmp_path)
    Clippo.from_pretrained(tmp_path)
    Clippo.from_pretrained(tmp_path, clippo.renderer)
    assert not recwarn.list
    other = Renderer(options={"size": 16, "ink": 9}, fonts={"b.otf": "12"})
    with pytest.warns(UserWarning, match=r"options\.ink was 0, is 9; fonts\.0\.file was a\.otf, is b\.otf"):
        Clippo.from_pretrained(tmp_path, other)
    rewritten(tmp_path / "renderer.json", lambda _: [])
    with pytest.raises(ValueError, match=r"renderer\.json does not describe"):
        Clippo.from_pretrained(tmp_path, other)
