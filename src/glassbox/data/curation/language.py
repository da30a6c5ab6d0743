"""Which language a document is in: a label on each, and only the wanted ones kept."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec

UNSURE = "und"


class LanguageSpec(StepSpec):
    """Label documents with their language, `language` and `language_score`, and keep the wanted ones.

    Codes are those of ISO 639: en, zh, de; zxx is text without language, und is unsure.
    """

    kind: Literal["language"] = "language"
    keep: tuple[str, ...] = Field((), description="codes to keep; none: all, labelled")
    min_score: float = Field(
        0.5, ge=0, le=1, description="probability under which a document counts as und"
    )
    among: tuple[str, ...] = Field(
        (), description="codes that come into question; fewer make short texts surer; none: all"
    )
    characters: int = Field(1000, ge=1, description="how much of a document is looked at")

    def build(self) -> RecordStep:
        """The step. Raises UserError where the extra is missing, and for a code nobody knows."""
        known = known_languages()
        unknown = sorted({*self.keep, *self.among} - {*known, UNSURE})
        if unknown:
            raise UserError(
                f"step 'language': '{unknown[0]}' is no language it knows; choose among "
                f"{', '.join(known)}"
            )
        never = sorted({*self.keep} - {*self.among, UNSURE}) if self.among else []
        if never:
            raise UserError(f"step 'language': keep has '{never[0]}', which among has not; add it")
        return LanguageStep(self)


def _load(among: tuple[str, ...] = ()) -> Any:
    """A classifier of py3langid's, whose model lies in its package. Raises UserError without it."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UserError(
            "step 'language' needs the package py3langid; pip install \"glassbox-lm[language]\""
        ) from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if among:
        identifier.set_languages(list(among))
    return identifier


def language_teller() -> Callable[[str], str] | None:
    """What tells a text's language, `und` where it is unsure; None without the extra `language`."""
    if importlib.util.find_spec("py3langid") is None:
        return None
    step = LanguageStep(LanguageSpec())
    return lambda text: step.identify(text)[0]


def known_languages() -> list[str]:
    """The codes that can be told apart, in alphabetic order."""
    return sorted(_load().labels)


@dataclass
class LanguageStep:
    """The step of a LanguageSpec; the classifier is loaded where it runs, once in each worker."""

    spec: LanguageSpec
    _identifier: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "_identifier": None}

    def identify(self, text: str) -> tuple[str, float]:
        """The likeliest language of a text and its probability; und where that is too low."""
        if self._identifier is None:
            self._identifier = _load(self.spec.among)
        code, score = self._identifier.classify(text[: self.spec.characters])
        # no letter of any language it knows: every language is as likely as every other
        return (code if score >= self.spec.min_score else UNSURE), float(score)

    def __call__(self, record: Record) -> Record | Dropped:
        """The record with its language, or a refusal."""
        code, score = self.identify(record.text)
        keep = self.spec.keep
        if keep and code not in keep:
            detail = f"{code} ({score:.2f}), wanted {', '.join(keep)}"
            return Dropped("unsure language" if code == UNSURE else "another language", detail)
        found = {"language": code, "language_score": round(score, 4)}
        return replace(record, metadata={**record.metadata, **found})
