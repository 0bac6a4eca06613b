import pytest

from clippo.data.coco import CocoConfig
from clippo.data.emoji import EmojiConfig
from clippo.data.folder import FolderConfig
from clippo.data.parquet import ParquetConfig
from clippo.data.spec import source_config
from clippo.data.table import TableConfig
from clippo.data.webdataset import TarsConfig
from clippo.data.xm3600 import Xm3600Config
from clippo.errors import UserError


def test_specifications():
    assert source_config("folder:photos") == FolderConfig(path="photos")
    assert source_config("folder:a:b?held_out=0.2&min_chars=3") == FolderConfig(
        path="a:b", held_out=0.2, min_chars=3
    )
    assert source_config("table:p.csv?image=path&text=en:title,de:titel") == TableConfig(
        path="p.csv", image="path", text="en:title,de:titel"
    )
    assert source_config("coco:dataset.json?images=pictures&parts=train,restval") == CocoConfig(
        path="dataset.json", images="pictures", parts=("train", "restval")
    )
    assert source_config("xm3600:captions.jsonl?images=photos") == Xm3600Config(
        path="captions.jsonl", images="photos"
    )
    assert source_config("emoji") == source_config("emoji:") == EmojiConfig()
    assert source_config("emoji:?languages=en,zh&alias_share=0") == EmojiConfig(
        languages=("en", "zh"), alias_share=0.0
    )


def test_the_kind_of_a_path_is_guessed(tmp_path):
    assert source_config("a/pairs.CSV") == TableConfig(path="a/pairs.CSV")
    assert source_config("a/{0..9}.tar?held_out=0") == TarsConfig(path="a/{0..9}.tar", held_out=0.0)
    assert source_config("a/*.parquet") == ParquetConfig(path="a/*.parquet")
    assert source_config(str(tmp_path)) == FolderConfig(path=str(tmp_path))
    for suffix, config in (("tar", TarsConfig), ("parquet", ParquetConfig), ("arrow", ParquetConfig)):
        (tmp_path / suffix).mkdir()
        (tmp_path / suffix / f"0.{suffix}").touch()
        assert source_config(str(tmp_path / suffix)) == config(path=str(tmp_path / suffix))
    (tmp_path / "tar" / "0.jpg").touch()
    assert source_config(str(tmp_path / "tar")) == FolderConfig(path=str(tmp_path / "tar"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", " is not a folder, and has none of the endings .csv"),
        ("photos", "photos is not a folder, and has none of the endings .csv"),
        ("folders:photos", "the kind of a source must be one of coco, dictionary, emoji, .*; got 'folders'"),
        ("folder:", "folder needs a path: folder:PATH"),
        ("folder:photos?colour=red", r"folder has the fields path, .*; got 'colour=red'"),
        ("folder:photos?held_out", r"folder has the fields path, .*; got 'held_out'"),
        ("folder:photos?held_out=much", "held_out must be a number, got 'much'"),
        ("folder:photos?held_out=2", "held_out must be from 0 to below 1, got 2.0"),
        ("emoji:photos", "emoji takes no path; got 'photos'"),
        ("emoji:?languages=xx", "languages must be among"),
    ],
)
def test_what_is_none(spec, message):
    with pytest.raises(UserError, match=message):
        source_config(spec)
