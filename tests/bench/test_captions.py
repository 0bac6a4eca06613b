"""The captions that the renderers are measured on."""

import pytest

from clippo.bench.captions import CLDR, KINDS, captions

SCRIPT = {"English": "a", "Chinese": "\u4e00", "Arabic": "\u0627", "Hindi": "\u0915", "Thai": "\u0e01"}


@pytest.mark.slow
@pytest.mark.skipif(not CLDR.is_dir(), reason="apt-get install unicode-cldr-core")
@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_different_and_repeatable(kind):
    found = captions(kind, 300)
    assert len(set(found)) == 300
    assert found == captions(kind, 300)
    assert found != captions(kind, 300, seed=1)
    assert 20 < sum(map(len, found)) / 300 < 70
    first = ord(SCRIPT.get(kind, "a"))
    assert sum(first - 0x40 < ord(c) < first + 0x5200 for text in found for c in text) > 150 * 20


def test_missing_files_name_their_package(monkeypatch, tmp_path):
    monkeypatch.setattr("clippo.bench.captions.CLDR", tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install unicode-cldr-core"):
        captions("Thai", 1)
