"""Two dozen pictures with texts, as a folder, a table, tars and a Parquet file: the same examples."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
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


def split_image(number: int, part: str, **fields):
    """A picture in a split of Karpathy, with the fields that are not read."""
    sentences = [
        {"tokens": ["a", str(number)], "raw": f"{about} {number}.", "imgid": number, "sentid": 5 * number + i}
        for i, about in enumerate(("A picture of", "The number"))
    ]
    return {"sentids": [5 * number], "imgid": number, "split": part, "sentences": sentences, **fields}


def xm3600_line(number: int, **captions: list[str]):
    """A line as the file has it, with the fields that are not read."""
    by_language = {
        code: {
            "caption": texts,
            "caption/tokenized": [text.replace(".", " .") for text in texts],
            "caption/tokenized/lowercase": [text.lower().replace(".", " .") for text in texts],
        }
        for code, texts in captions.items()
    }
    return {"image/key": f"{number:016x}", "image/locale": "quz", **by_language}


def write_xm3600(root: Path) -> None:
    """Write 20 pictures with two captions in German and one in Thai, of which half have one in Maori."""
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(20):
        pixels = np.full((6, 6, 3), 10 * number, np.uint8)
        (root / "images" / f"{number:016x}.jpg").write_bytes(png(pixels))
        maori = {"mi": [f"He ngeru {number}."]} if number % 2 else {"mi": []}
        german = [f"Eine Katze {number}.", f"{number} Hunde."]
        rows.append(xm3600_line(number, de=german, th=[f"แมว {number}"], **maori))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (root / "captions.jsonl").write_text(lines, encoding="utf-8")


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
