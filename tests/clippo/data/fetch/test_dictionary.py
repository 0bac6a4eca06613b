"""The picture dictionary, made of small packages of the true layout, and its parts."""

import gettext
import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clippo.data.convert import png
from clippo.data.decode import pixels_of
from clippo.data.dictionary import HELD_OUT_LANGUAGES, DictionaryConfig
from clippo.data.fetch import dictionary
from clippo.data.fetch.dictionary import fetch_dictionary, language_code
from clippo.data.spec import source_config
from clippo.errors import UserError
from clippo.files import check_manifest
from clippo.recipes import find_recipe
from clippo.renderer import find_font
from clippo.results import read_results
from clippo.training.trainer import train

STAMPS = "usr/share/tuxpaint/stamps/"
WORDS = "usr/share/games/pysiogame/"
CLDR = "usr/share/unicode/cldr/common/"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><circle cx="36" cy="36" r="30"/></svg>'
SPEAKERS = b"""<supplementalData><territoryInfo>
<territory type="DE" population="1000"><languagePopulation type="de" populationPercent="91"/>
<languagePopulation type="tr" populationPercent="2.6"/></territory>
<territory type="AT" population="100"><languagePopulation type="de" populationPercent="97"/></territory>
<territory type="TW" population="50"><languagePopulation type="zh_Hant" populationPercent="95"/></territory>
<territory type="AQ" population="0"/>
</territoryInfo></supplementalData>"""
EMPTY_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"></svg>'
WIDE_SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="40" height="20"/></svg>'
)


def picture(format: str, color: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", (20, 10), color).save(out, format)
    return out.getvalue()


def mo(translations: dict[str, str]) -> bytes:
    """A file of translations, as gettext reads them."""
    pairs = [(b"", b"Content-Type: text/plain; charset=UTF-8\n")]
    pairs += [(key.encode(), value.encode()) for key, value in sorted(translations.items())]
    strings, places = b"", [[], []]
    start = 28 + 16 * len(pairs)
    for side in (0, 1):
        for pair in pairs:
            places[side].append((len(pair[side]), start + len(strings)))
            strings += pair[side] + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return header + b"".join(struct.pack("<2I", *place) for side in places for place in side) + strings


def annotations(names: dict[str, str]) -> bytes:
    own = "".join(
        f'<annotation cp="{cp}">x | y</annotation><annotation cp="{cp}" type="tts">{name}</annotation>'
        for cp, name in names.items()
    )
    return f"<?xml version='1.0'?><ldml><annotations>{own}</annotations></ldml>".encode()


def territories(names: dict[str, str]) -> bytes:
    own = "".join(
        f'<territory type="{code}" alt="short">{name[:3]}</territory>'
        f'<territory type="{code}">{name}</territory>'
        for code, name in names.items()
    )
    return f"<ldml><localeDisplayNames><territories>{own}</territories></localeDisplayNames></ldml>".encode()


@pytest.fixture
def packages(deb, tgz, tmp_path, monkeypatch):
    red, blue = picture("PNG", (255, 0, 0, 128)), picture("JPEG", (0, 0, 255))
    deb(
        "tuxpaint-stamps-default",
        {
            f"{STAMPS}animals/frog.1.png": red,
            f"{STAMPS}animals/frog.1.txt": "A frog.\nde.utf8=Ein Frosch.\npt_BR.utf8=Um sapo.\nth.utf8=กบ\n"
            "pt.utf8=Uma rã.\nsr@latin.utf8=Žaba\nen_GB.utf8=A frog, sir.\nca@valencia.utf8=x\n"
            "fr.utf8=\n".encode(),
            f"{STAMPS}animals/frog.1.dat": b"tintable",
            f"{STAMPS}food/plate.svg": WIDE_SVG,
            f"{STAMPS}food/plate.txt": b"A plate.",
            f"{STAMPS}food/nothing.svg": EMPTY_SVG,
            f"{STAMPS}food/nothing.txt": b"Nothing.",
            f"{STAMPS}food/missing.txt": b"Missing.",
        },
    )
    lists = 'd = dict()\nd["a4a_animals"] = {}\nd["a4a_jobs"] = {}\n'
    deb(
        "pysiogame",
        {
            f"{WORDS}res/images/art4apps/animals/guinea_pig.jpg": blue,
            f"{WORDS}res/images/art4apps/jobs/cook.jpg": blue,
            f"{WORDS}i18n/custom/a4a_py/en_US.py": lists.format(["cow", "guinea pig"], ["cook"]).encode(),
            f"{WORDS}i18n/custom/a4a_py/de.py": lists.format(["Kuh", "Meerschweinchen"], ["Koch"]).encode(),
            f"{WORDS}i18n/custom/a4a_py/fr.py": lists.format(["vache", "<guinea pig>"], []).encode(),
            f"{WORDS}i18n/custom/a4a_py/bs.py": lists.format(["x", "y"], ["z"]).encode(),
        },
    )
    deb("iso-flags-png-320x240", {"usr/share/iso-flags-png-320x240/de.png": red})
    countries = [
        {"alpha_2": "DE", "name": "Germany"},
        {"alpha_2": "XX", "name": "Nowhere"},
    ]
    deb(
        "iso-codes",
        {
            "usr/share/iso-codes/json/iso_3166-1.json": json.dumps({"3166-1": countries}).encode(),
            "usr/share/locale/fr/LC_MESSAGES/iso_3166-1.mo": mo({"Germany": "Allemagne"}),
            "usr/share/locale/zh_TW/LC_MESSAGES/iso_3166-1.mo": mo({"Germany": "德國"}),
            "usr/share/locale/it/LC_MESSAGES/iso_3166-1.mo": mo({"France": "Francia"}),
        },
    )
    font = find_font("NotoColorEmoji.ttf", package="fonts-noto-color-emoji")
    deb("fonts-noto-color-emoji", {"usr/share/fonts/truetype/noto/NotoColorEmoji.ttf": font.read_bytes()})
    english = annotations({"🐈": "cat", "❤": "red heart", "🇩🇪": "flag: Germany", "👋🏽": "waving hand"})
    deb(
        "unicode-cldr-core",
        {
            f"{CLDR}annotations/en.xml": english,
            f"{CLDR}annotations/de.xml": annotations({"🐈": "Katze", "❤": "↑↑↑"}),
            f"{CLDR}annotations/de_CH.xml": annotations({"🐈": "Chatz"}),
            f"{CLDR}annotations/pt.xml": annotations({"🐈": "gato"}),
            f"{CLDR}annotationsDerived/th.xml": annotations({"🐈": "แมว"}),
            f"{CLDR}supplemental/supplementalData.xml": SPEAKERS,
            f"{CLDR}main/en.xml": territories({"DE": "Germany", "001": "world"}),
            f"{CLDR}main/de.xml": territories({"DE": "Deutschland"}),
            f"{CLDR}main/de_CH.xml": territories({"DE": "Tüütschland"}),
            f"{CLDR}main/el.xml": territories({"DE": "↑↑↑"}),
        },
    )
    emojis = [
        {"emoji": "🐈", "group": "animals-nature"},
        {"emoji": "❤️", "group": "smileys-emotion"},
        {"emoji": "🇩🇪", "group": "flags"},
        {"emoji": "👋🏽", "group": "people-body"},
    ]
    tgz(
        "openmoji-17.0.0.tgz",
        {
            "package/data/openmoji.json": json.dumps(emojis).encode(),
            "package/color/svg/1F408.svg": SVG,
            "package/color/svg/1F1E9-1F1EA.svg": SVG,
            "package/color/svg/F8FF.svg": SVG,
        },
    )
    tgz(
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        {
            "package/assets/1f408.webp": picture("WEBP", (9, 9, 9)),
            "package/assets/2764.webp": picture("WEBP", (9, 9, 9)),
            "package/assets/2764-fe0f.webp": picture("WEBP", (9, 9, 9)),
            "package/assets/0-readme.webp": b"no emoji",
        },
    )
    unpinned = {name: replace(package, sha256="") for name, package in dictionary.PACKAGES.items()}
    monkeypatch.setattr(dictionary, "PACKAGES", unpinned)
    return tmp_path


@pytest.fixture
def made(packages, tmp_path):
    folder = tmp_path / "dictionary"
    fetch_dictionary(folder, packages)
    return folder


def test_every_collection_has_its_pictures_and_names(made):
    every = {
        "collections": "stamps,drawings,flags,noto,openmoji,fluent",
        "languages": "en,de,fr,pt,pt-PT,th,sr-Latn,zh-Hant",
    }
    spec = f"dictionary:{made}?" + "&".join(f"{name}={value}" for name, value in every.items())
    source = source_config(spec).build("all", image_size=32)
    found = {example.key: example for example in (source[index] for index in range(len(source)))}
    names = {key: {text.language: text.text for text in one.texts} for key, one in found.items()}
    cat = {"en": "cat", "de": "Katze", "pt": "gato", "th": "แมว"}
    assert names == {
        "stamps/animals/frog-1": {
            "en": "A frog.", "de": "Ein Frosch.", "pt": "Um sapo.", "pt-PT": "Uma rã.", "th": "กบ",
            "sr-Latn": "Žaba",
        },
        "stamps/food/plate": {"en": "A plate."},
        "drawings/animals/guinea-pig": {"en": "guinea pig", "de": "Meerschweinchen"},
        "drawings/jobs/cook": {"en": "cook", "de": "Koch"},
        "flags/de": {"en": "Germany", "fr": "Allemagne", "zh-Hant": "德國"},
        "noto/1f408": cat,
        "noto/2764": {"en": "red heart"},
        "openmoji/1f408": cat,
        "fluent/1f408": cat,
        "fluent/2764": {"en": "red heart"},
    }  # fmt: skip
    labels = {key: one.labels for key, one in found.items()}
    assert labels["stamps/animals/frog-1"] == labels["drawings/animals/guinea-pig"] == ("animals",)
    assert labels["noto/1f408"] == labels["fluent/1f408"] == ("animals-nature",)
    assert labels["flags/de"] == ("de",)
    shapes = {key: pixels_of(one).shape for key, one in found.items()}
    assert shapes["stamps/food/plate"] == (64, 128, 3)
    assert shapes["openmoji/1f408"] == shapes["noto/1f408"] == (128, 128, 4)
    assert shapes["flags/de"] == (10, 20, 4)


def test_emoji_and_territories_have_all_that_cldr_calls_them(made):
    source = source_config(f"tars:{made}/{{emoji,territories}}.tar?held_out=0&min_chars=1").build("all")
    found = {example.key: example for example in (source[index] for index in range(len(source)))}
    texts = {key: [(text.language, text.text) for text in one.texts] for key, one in found.items()}
    of_cat = {"de": "Katze", "en": "cat", "pt": "gato", "th": "แมว"}
    assert {key: sorted(own) for key, own in texts.items()} == {
        "emoji/1f408": sorted((code, word) for code, name in of_cat.items() for word in (name, "x", "y")),
        "emoji/2764": [("en", "red heart"), ("en", "x"), ("en", "y")],
        "territories/de": [("de", "Deu"), ("de", "Deutschland"), ("en", "Ger"), ("en", "Germany")],
    }
    assert [text for code, text in texts["emoji/1f408"] if code == "de"] == ["Katze", "x", "y"]
    assert [text for code, text in texts["territories/de"] if code == "de"] == ["Deutschland", "Deu"]
    assert pixels_of(found["emoji/1f408"]).shape == (128, 128, 4)


def test_the_manifest_tells_the_origin_of_everything(made):
    manifest = json.loads((made / "manifest.json").read_text())
    assert {one["package"] for one in manifest["packages"]} == {
        package.name for package in dictionary.PACKAGES.values()
    }
    assert all(one["licence"] and len(one["sha256"]) == 64 for one in manifest["packages"])
    assert manifest["collections"]["flags"] == {"pictures": 1, "names": 3, "languages": 3}
    assert manifest["speakers"] == {"de": 1007, "tr": 26, "zh-Hant": 48}
    for tar in made.glob("*.tar"):
        assert tar.name in manifest["sha256"]
        check_manifest(tar)


def test_equal_packages_make_equal_files(made, packages, tmp_path):
    fetch_dictionary(tmp_path / "again", packages)
    for tar in made.glob("*.tar"):
        assert tar.read_bytes() == (tmp_path / "again" / tar.name).read_bytes()


def test_a_folder_that_holds_something_is_left_alone(packages, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(UserError, match="mine is not an empty folder"):
        fetch_dictionary(tmp_path / "mine", packages)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("de", "de"), ("pt_BR", "pt"), ("pt", "pt-PT"), ("zh_CN", "zh"), ("zh_Hans", "zh"), ("en_GB", None),
        ("no", "nb"), ("sr@latin", "sr-Latn"), ("ca@valencia", None), ("hi_Latn", "hi-Latn"),
        ("es_419", None),
    ],
)  # fmt: skip
def test_language_codes_are_those_of_cldr(name, code):
    assert language_code(name) == code


def test_translations_are_read_as_gettext_reads_them():
    assert gettext.GNUTranslations(io.BytesIO(mo({"a": "b"}))).gettext("a") == "b"


# The source, on a dictionary that is drawn for it.


@pytest.fixture
def drawn(tmp_path):
    folder = tmp_path / "drawn"
    folder.mkdir()
    languages = ("en", "de", "nb", *HELD_OUT_LANGUAGES)
    for name, count in {"stamps": 120, "drawings": 80, "openmoji": 30}.items():
        entries = [
            dictionary.Entry(
                str(number), "png", png(np.full((4, 4, 3), number, np.uint8)),
                {code: f"{code} word {number}" for code in languages[: 2 + number % 12]},
            )
            for number in range(count)
        ]  # fmt: skip
        dictionary.write(folder / f"{name}.tar", entries)
    return folder


def config(folder, **fields):
    return DictionaryConfig(path=str(folder), **{"collections": ("stamps", "drawings"), **fields})


def test_pictures_and_whole_languages_are_held_out(drawn):
    train, held_out, every = (config(drawn).build(split) for split in ("train", "held_out", "all"))
    keys = [{source[i].key for i in range(len(source))} for source in (train, held_out, every)]
    assert keys[0] | keys[1] == keys[2]
    assert not keys[0] & keys[1]
    assert len(keys[2]) == 200
    assert 8 < len(keys[1]) < 32
    languages = {text.language for i in range(len(every)) for text in every[i].texts}
    assert languages == {"en", "de", "nb"}
    # The split of a picture does not hang on what else is asked for.
    alone = config(drawn, collections=("stamps",), languages=("th",)).build("held_out")
    assert {alone[i].key for i in range(len(alone))} <= keys[1]
    assert {text.language for i in range(len(alone)) for text in alone[i].texts} == {"th"}


def test_unseen_styles_have_no_part_to_train_on(drawn):
    styles = config(drawn, collections=("openmoji",))
    assert len(styles.build("train")) == 0
    assert len(styles.build("held_out")) == len(styles.build("all")) == 30


def test_english_has_its_share(drawn):
    source = config(drawn, english_share=0.4).build("train")
    for index in range(len(source)):
        weights = {text.language: text.weight for text in source[index].texts}
        assert weights.pop("en") == 0.4
        assert sum(weights.values()) == pytest.approx(0.6)
    other = config(drawn).build("train")
    assert source.fingerprint != other.fingerprint


@pytest.mark.slow
def test_the_recipe_trains_and_measures_what_is_unseen(tmp_path, monkeypatch):
    """On 150 pictures where the fetched dictionary would be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "clippo" / "dictionary"
    folder.mkdir(parents=True)
    for name in ("stamps", "drawings", "flags", "noto", "openmoji", "fluent"):
        entries = [
            dictionary.Entry(
                str(number), "png", png(np.full((20, 30, 3), 9 * number, np.uint8)),
                {code: f"{code} word {number}" for code in ("en", "de", *HELD_OUT_LANGUAGES)},
            )
            for number in range(25)
        ]  # fmt: skip
        dictionary.write(folder / f"{name}.tar", entries)
    config = find_recipe("dictionary")()
    train(replace(config, steps=2, warmup_steps=1, batch_size=8, workers=0), tmp_path / "run")
    rows = read_results(tmp_path / "run" / "results.json").rows
    assert {row["evaluator"] for row in rows} == {
        "trained", "held_out", "unseen_languages", "unseen_style_openmoji", "unseen_style_fluent",
    }  # fmt: skip
    languages = {row["metric"].partition("/")[0] for row in rows if row["evaluator"] == "unseen_languages"}
    assert languages == {"chance", "mean", *HELD_OUT_LANGUAGES}


def test_the_recipe_trains_and_measures_the_languages_of_a_list():
    config = find_recipe("dictionary")(languages="en,de")
    measured = {name: getattr(evaluator, "data", None) for name, evaluator in config.evaluators.items()}
    assert config.data == DictionaryConfig(languages=("en", "de"))
    assert measured["trained"] is measured["held_out"] is None  # they look at the source of the run
    assert measured["unseen_style_fluent"] == DictionaryConfig(
        collections=("fluent",), languages=("en", "de")
    )
    assert measured["unseen_languages"] == DictionaryConfig(languages=HELD_OUT_LANGUAGES)


def test_what_cannot_be_is_refused(drawn, tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*: `clippo data fetch dictionary` makes it"):
        config(tmp_path / "nowhere").build("train")
    with pytest.raises(UserError, match="collections must be among stamps, .*; got photos"):
        config(drawn, collections=("photos",))
    with pytest.raises(UserError, match="no name in .* is in the language xx"):
        config(drawn, languages=("en", "xx")).build("train")
    with pytest.raises(UserError, match="english_share must be between 0 and 1, got 2"):
        config(drawn, english_share=2)
