"""Descriptions of Debian's packages: consecutive sentences in up to 17 languages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clippo.data.remote import cache_folder, state_of
from clippo.data.sentence_pairs import Document, SentencePairsConfig, sentences_of
from clippo.errors import UserError

__all__ = ["PackagesConfig"]

# In Debian's files a line of one dot ends a paragraph, and lines that are indented further form lists.
END_OF_PARAGRAPH = re.compile(r"\n\s*\.(?=\n)|\n\s+[*+-] +")


@dataclass(frozen=True, kw_only=True)
class PackagesConfig(SentencePairsConfig):
    """Descriptions of Debian's packages, which `clippo data fetch texts` fetches.

    A document is the description of a package in one language, whose first sentence is the synopsis. The
    packages of a source package have much of their text in common, and are held out together.

    Attributes:
        path: the file; by default the one in the user's cache.
        languages: codes of the languages, such as en, de and pt_BR; none for all.
    """

    name: ClassVar[str] = "packages"
    path: str = ""
    languages: tuple[str, ...] = ("en",)
    held_out: float = 0.2

    @property
    def file(self) -> Path:
        file = Path(self.path or cache_folder("texts") / "packages.jsonl")
        if not file.is_file():
            raise UserError(f"there is no file {file}: `clippo data fetch texts` makes it")
        return file

    @property
    def state(self) -> Any:
        return state_of(str(self.file))

    def documents(self) -> Iterator[Document]:
        with self.file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    source, synopses, descriptions = row["source"], row["synopsis"], row["description"]
                    texts = {code: (own, descriptions[code]) for code, own in synopses.items()}
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise UserError(
                        f"{self.file}, line {number} must be JSON with source, and with synopsis and"
                        f" description by language: {error!r}"
                    ) from error
                for language, (synopsis, description) in texts.items():
                    if self.languages and language not in self.languages:
                        continue
                    text = END_OF_PARAGRAPH.sub("\n\n", description)
                    sentences = sentences_of(text, language, min_chars=self.min_chars)
                    yield Document([synopsis, *sentences], language, source)
