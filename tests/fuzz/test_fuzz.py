"""Every parser on files that it can read, on what fuzzing has found, and on a few damaged files."""

import random
from pathlib import Path

import pytest

from tests.fuzz.parsers import PARSERS

CORPUS = Path(__file__).parent / "corpus"
DAMAGED = 40


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or insert some bytes."""
    found = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        at, length = rng.randrange(len(found) + 1), 1 << rng.randrange(8)
        match rng.randrange(5):
            case 0:
                found[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del found[at : at + length]
            case 2:
                found[at:at] = found[at : at + length]
            case 3:
                found[at:at] = rng.choice([b"\x00", b"\xff\xff\xff\xff", b'"', b"-1", b"1e999", b"[", b"\n"])
            case 4:
                del found[at:]
    return bytes(found)


@pytest.mark.parametrize("name", PARSERS)
def test_good_files_are_read(name, tmp_path):
    parser = PARSERS[name]
    for content in parser.seeds():
        path = tmp_path / f"input{parser.suffix}"
        path.write_bytes(content)
        parser.read(path)


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_files_give_clear_errors(name, tmp_path):
    parser, rng = PARSERS[name], random.Random(name)
    seeds = parser.seeds()
    for _ in range(DAMAGED if seeds else 0):
        parser(tmp_path, damaged(rng.choice(seeds), rng))


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_what_fuzzing_has_found_stays_mended(file, tmp_path):
    parser, _kind, _sha = file.name.rsplit("-", 2)
    PARSERS[parser](tmp_path, file.read_bytes())
