import pytest

from clippo.data.captions import in_json, in_lines, of_name, reason_against, texts_of


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a cat", ""),
        ("猫", ""),
        ("ab", ""),
        ("", "too short"),
        ("a", "too short"),
        ("x" * 100_001, "too long"),
        ("2024-01-02 12:30", "no letters"),
        ("IMG_1234", "the name of a file"),
        ("DSC01234.JPG", "the name of a file"),
        ("holiday-3.png", "the name of a file"),
        ("a photo of IMG_1234.jpg", ""),
    ],
)
def test_texts_that_describe_nothing(text, reason):
    assert reason_against(text, min_chars=2) == reason


def test_lines_and_json():
    assert in_lines("\ufeffa cat\n\n ein Hund \r\n".encode()) == [("a cat", ""), (" ein Hund ", "")]
    assert in_json(b'{"caption": "a cat", "width": 3}') == [("a cat", "")]
    assert in_json(b'{"captions": ["a", "b"]}') == [("a", ""), ("b", "")]
    assert in_json('{"captions": {"en": ["a", "b"], "zh": "猫"}}'.encode()) == [
        ("a", "en"),
        ("b", "en"),
        ("猫", "zh"),
    ]
    assert in_json(b'{"width": 3}') == []
    assert list(texts_of(None)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Expecting property name"),
        (b"[1]", "JSON that is not an object"),
        (b'{"caption": 3}', "a text must be a string, strings, or these by language; got '3'"),
        (b'{"captions": [["a"]]}', "a text must be a string"),
        (b'{"caption": {"en": {"a": "b"}}}', "a text must be a string"),
        (b'{"caption": "\xff"}', "text that is not UTF-8, at byte 13"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_none(content, message):
    with pytest.raises(ValueError, match=message):
        in_json(content)


def test_names():
    assert of_name("golden_retriever") == "golden retriever"
    assert of_name("tabby-cat") == "tabby cat"
