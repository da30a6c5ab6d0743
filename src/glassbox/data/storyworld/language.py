"""Which languages the world can be told in."""

from __future__ import annotations

from functools import lru_cache

from glassbox.core.errors import UserError
from glassbox.data.storyworld import en_lexicon, en_text, zh_lexicon, zh_text
from glassbox.data.storyworld.template import Language, compile_language

LANGUAGES = ("en", "zh")


@lru_cache(maxsize=len(LANGUAGES))
def load_language(code: str) -> Language:
    """The words and sentences of "en" or "zh". Raises UserError for any other code."""
    if code == "en":
        return compile_language(
            "en",
            " ",
            en_lexicon.english_words(),
            en_text.SENTENCES,
            en_text.ASKINGS,
            en_text.PHRASES,
            en_text.SMALL_TALK,
        )
    if code == "zh":
        return compile_language(
            "zh",
            "",
            zh_lexicon.chinese_words(),
            zh_text.SENTENCES,
            zh_text.ASKINGS,
            zh_text.PHRASES,
            zh_text.SMALL_TALK,
        )
    raise UserError(f"language = {code!r}: known languages are {', '.join(LANGUAGES)}")
