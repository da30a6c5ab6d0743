"""Which added tokens are looked for, and when: before a text is normalized, or after."""

from __future__ import annotations

from collections.abc import Sequence

from glassbox.tokenizers.processing import Processing
from glassbox.tokenizers.streaming import AddedTokenSplitter, Edges
from glassbox.tokenizers.tokenizer_json import AddedToken, Words


def early_splitters(
    added: Sequence[AddedToken], words: Words, allow_special: bool
) -> list[AddedTokenSplitter]:
    """What cuts a text as it comes, one after the other; special tokens only where allowed."""
    groups = [
        {t.content: t for t in added if t.normalized == late and (allow_special or not t.special)}
        for late in ((False,) if isinstance(words, Processing) else (False, True))
    ]
    return [_splitter(group) for group in groups if group]


def late_splitter(
    added: Sequence[AddedToken], words: Words, allow_special: bool
) -> AddedTokenSplitter | None:
    """What cuts normalized text, at tokens normalized alike; None where there is nothing to cut."""
    if not isinstance(words, Processing):
        return None
    group = {
        words.normalize(t.content): t
        for t in added
        if t.normalized and (allow_special or not t.special)
    }
    group.pop("", None)
    return _splitter(group) if group else None


def _splitter(group: dict[str, AddedToken]) -> AddedTokenSplitter:
    edges = {content: t.edges for content, t in group.items() if t.edges != Edges()}
    return AddedTokenSplitter({content: t.id for content, t in group.items()}, edges)
