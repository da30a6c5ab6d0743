"""Text in English and Chinese, and which of the two a user reads."""

from __future__ import annotations

import locale
import os
from dataclasses import dataclass
from typing import Literal

from glassbox.core.errors import UserError

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Both:
    """One text in both languages."""

    en: str
    zh: str

    def of(self, language: Language) -> str:
        """The text in one language.

        >>> Both("mask", "掩码").of("zh")
        '掩码'
        """
        return self.zh if language == "zh" else self.en

    def filled(self, fields: dict[str, str]) -> Both:
        """Both texts with their {placeholders} filled.

        >>> Both("{a} sees {b}", "{a} 看到 {b}").filled({"a": "1", "b": "2"}).en
        '1 sees 2'
        """
        return Both(self.en.format(**fields), self.zh.format(**fields))


def chosen_language(asked: str | None = None) -> Language:
    """The language that was asked for, or else the locale's: Chinese where it is Chinese.

    Raises UserError for a language other than en and zh.
    """
    if asked is not None:
        if asked not in ("en", "zh"):
            raise UserError(f"--language {asked}: choose en or zh")
        return "zh" if asked == "zh" else "en"
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "zh" if (locale.getlocale()[0] or "").lower().startswith(("zh", "chinese")) else "en"
