"""Font files and system libraries: where they are looked for, and what is said when they are missing."""

import builtins
import os
from pathlib import Path

import pytest

import clippo.renderer.fonts
from clippo.renderer import FontNotFoundError, SystemLibraryError, UnifontRenderer, find_font, import_skia


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders `argument`, `variable` and `system`; the last two are searched instead of the machine's own."""
    made = {name: tmp_path / name for name in ("argument", "variable", "system")}
    for folder in made.values():
        folder.mkdir()
    monkeypatch.setenv("CLIPPO_FONT_PATH", str(made["variable"]))
    monkeypatch.setattr(clippo.renderer.fonts, "SYSTEM_FONT_FOLDERS", (str(made["system"]),))
    return made


def put(folder: Path, *parts: str) -> Path:
    file = folder.joinpath(*parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def test_order_of_search(folders):
    in_system = put(folders["system"], "opentype", "some", "a.otf")
    assert find_font("a.otf", package="p") == in_system
    in_variable = put(folders["variable"], "nested", "a.otf")
    assert find_font("a.otf", package="p") == in_variable
    in_argument = put(folders["argument"], "a.otf")
    assert find_font("a.otf", package="p", path=folders["argument"]) == in_argument
    assert find_font("a.otf", package="p", path=str(in_argument)) == in_argument


def test_variable_holds_several_folders(folders, monkeypatch):
    file = put(folders["argument"], "a.otf")
    several = [str(folders["variable"]), "/does/not/exist", "", str(folders["argument"])]
    monkeypatch.setenv("CLIPPO_FONT_PATH", os.pathsep.join(several))
    assert find_font("a.otf", package="p") == file


def test_home_is_expanded(folders, monkeypatch):
    monkeypatch.setenv("HOME", str(folders["argument"]))
    monkeypatch.setattr(clippo.renderer.fonts, "SYSTEM_FONT_FOLDERS", ("~/.fonts",))
    file = put(folders["argument"], ".fonts", "a.otf")
    assert find_font("a.otf", package="p") == file


def test_explicit_path_is_not_replaced_by_another_version(folders):
    put(folders["system"], "a.otf")
    with pytest.raises(FontNotFoundError, match="argument"):
        find_font("a.otf", package="p", path=folders["argument"])


def test_missing_font_names_file_package_and_variable(folders):
    with pytest.raises(FontNotFoundError) as caught:
        find_font("NotoColorEmoji.ttf", package="fonts-noto-color-emoji")
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert "\n" not in message
    for part in ("NotoColorEmoji.ttf", "apt-get install fonts-noto-color-emoji", "CLIPPO_FONT_PATH"):
        assert part in message


def test_renderer_names_the_first_missing_font(folders):
    with pytest.raises(FontNotFoundError, match=r"unifont\.otf.*apt-get install fonts-unifont"):
        UnifontRenderer(64, font_path=folders["argument"])


def test_renderer_asks_for_the_hex_file_at_once(folders, monkeypatch):
    for name in ("unifont.otf", "unifont_upper.otf"):
        monkeypatch.undo()
        real = find_font(name, package="fonts-unifont")
        folders["argument"].joinpath(name).symlink_to(real)
    with pytest.raises(FontNotFoundError, match=r"unifont\.hex.*apt-get install unifont,"):
        UnifontRenderer(64, font_path=folders["argument"])


def test_font_path_must_be_a_folder(folders):
    with pytest.raises(NotADirectoryError, match="font_path"):
        UnifontRenderer(64, font_path=put(folders["argument"], "unifont.otf"))


def test_unreadable_font_is_named(folders):
    for name in ("unifont.otf", "unifont_upper.otf", "unifont.hex"):
        put(folders["argument"], name)
    with pytest.raises(OSError, match=r"unifont\.otf is not a font"):
        UnifontRenderer(64, font_path=folders["argument"])


@pytest.mark.parametrize("library", ["libEGL.so.1", "libGL.so.1", "libexpat.so.1"])
def test_missing_system_library_is_named(monkeypatch, library):
    fail_to_import_skia(monkeypatch, ImportError(f"{library}: cannot open shared object file: No such file"))
    with pytest.raises(SystemLibraryError) as caught:
        import_skia()
    message = str(caught.value)
    assert "\n" not in message
    assert library in message
    assert "apt-get install libegl1 libgl1 libexpat1" in message


def test_other_import_errors_pass_unchanged(monkeypatch):
    error = ModuleNotFoundError("No module named 'skia'")
    fail_to_import_skia(monkeypatch, error)
    with pytest.raises(ModuleNotFoundError) as caught:
        import_skia()
    assert caught.value is error


def fail_to_import_skia(monkeypatch, error: ImportError) -> None:
    real_import = builtins.__import__

    def import_or_fail(name, *args, **kwargs):
        if name == "skia":
            raise error
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_or_fail)
