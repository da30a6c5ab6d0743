"""`glassbox.evaluate`: metrics of a model, each with its standard error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glassbox.api.loaded import Loaded, load
from glassbox.data.text import find_corpus, read_documents
from glassbox.evaluation.storyworld import evaluate_story_world
from glassbox.evaluation.text import evaluate_text


def evaluate(
    model: Loaded | str | Path,
    on: str | Path | Iterable[str],
    *,
    limit: int | None = None,
) -> dict[str, Any]:
    """Compute the loss, perplexity and bits per byte of texts, or all metrics of a story-world
    corpus.

    model: a `Loaded`, or anything that `load` accepts.
    on: documents as strings; a file or folder of text or JSON lines; or a story-world corpus (a
        folder with manifest.json), which adds the excess over the exact entropy, questions,
        preferences and sums.
    limit: maximum number of documents, or of items of each kind.
    Returns losses in nats a token. Raises UserError if there is nothing to evaluate on.
    Tested against: transformers (the log-probability of every token).

    >>> found = evaluate("runs/quickstart", ["Once upon a time."])  # doctest: +SKIP
    >>> found["heldout"]["loss_nats"]["value"]  # doctest: +SKIP
    2.1
    """
    loaded = model if isinstance(model, Loaded) else load(model)
    if isinstance(on, str | Path) and (Path(on) / "manifest.json").exists():
        return evaluate_story_world(loaded.model, loaded.tokenizer, Path(on), limits=limit)
    documents = read_documents(find_corpus(str(on))) if isinstance(on, str | Path) else on
    return evaluate_text(loaded.model, loaded.tokenizer, documents, limit=limit)
