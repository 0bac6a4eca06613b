"""Two dozen pictures with texts, as a folder, a table, tars and a Parquet file: the same examples."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from clippo.data.convert import add_member, png
from clippo.data.emoji import EmojiConfig

Files = dict[str, tuple[bytes, str]]  # name of a picture -> its content and its text


@pytest.fixture(scope="session")
def files() -> Files:
    source = EmojiConfig(languages=("en",)).build("all", image_size=40)
    found = {}
    for number in range(24):
        example = source[100 + 10 * number]
        content, suffix = png(example.image), "png"
        if number % 2:
            out = io.BytesIO()
            Image.open(io.BytesIO(content)).convert("RGB").save(out, "JPEG")
            content, suffix = out.getvalue(), "jpg"
        found[f"{'ab'[number // 12]}/{number:02}.{suffix}"] = content, example.texts[0].text
    return found


def write_folder(root: Path, files: Files) -> None:
    for name, (content, text) in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        (root / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


def write_table(file: Path, files: Files) -> None:
    """The pictures must be in the folder of the table."""
    rows = [{"filepath": name, "title": text} for name, (_, text) in files.items()]
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, rows[0], delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w:gz" if file.suffix in (".gz", ".tgz") else "w") as tar:
        for name, content in members.items():
            add_member(tar, name, content)
    return file


def write_tars(root: Path, files: Files, per_tar: int = 10) -> None:
    root.mkdir()
    names = list(files)
    for number, start in enumerate(range(0, len(names), per_tar)):
        members = {}
        for name in names[start : start + per_tar]:
            members[name] = files[name][0]
            members[f"{name.partition('.')[0]}.txt"] = files[name][1].encode()
        write_tar(root / f"{number:04}.tar", members)


def write_parquet(file: Path, files: Files, group: int = 5) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures = [{"bytes": content, "path": name} for name, (content, _) in files.items()]
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])  # the Hub's image feature
    table = arrow.table({"image": arrow.array(pictures, image), "text": [text for _, text in files.values()]})
    parquet.write_table(table, file, row_group_size=group)


@pytest.fixture(scope="session")
def layouts(tmp_path_factory, files) -> dict[str, str]:
    """The specification of each layout by its name."""
    root = tmp_path_factory.mktemp("layouts")
    write_folder(root / "folder", files)
    for suffix in ("csv", "tsv", "jsonl"):
        write_table(root / "folder" / f"pairs.{suffix}", files)
    write_tars(root / "tars", files)
    write_parquet(root / "pairs.parquet", files)
    return {
        "folder": f"folder:{root}/folder",
        "csv": f"table:{root}/folder/pairs.csv",
        "tsv": f"table:{root}/folder/pairs.tsv",
        "jsonl": f"table:{root}/folder/pairs.jsonl",
        "tars": f"tars:{root}/tars/{{0000..0002}}.tar",
        "parquet": f"parquet:{root}/*.parquet",
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The indices of tars are kept here, and not in the user's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
