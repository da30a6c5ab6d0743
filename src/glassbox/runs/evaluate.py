"""Evaluate models by name, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.data.text import find_corpus, read_documents
from glassbox.evaluation.storyworld import evaluate_story_world
from glassbox.evaluation.text import evaluate_text
from glassbox.formats.open_model import find_model, open_on
from glassbox.tokenizers.prefix import Prefix


def evaluate_models(
    references: Sequence[str],
    *,
    corpus: str | None = None,
    text: str | None = None,
    limit: int = 0,
    prefix: Prefix = "auto",
    device: str = "auto",
    code: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluation of each model, by the name it was given.

    On `text` if given, else on the story world in `corpus`, or in the quickstart folder of the
    model. `prefix` is the token before each document of `text`. Raises UserError if there is
    nothing to evaluate on.
    """
    results: dict[str, Any] = {}
    for reference in references:
        model, tokenizer, _ = open_on(reference, device, code=code)
        if text is not None:
            documents = read_documents(find_corpus(text))
            results[reference] = evaluate_text(
                model, tokenizer, documents, limit=limit or None, prefix=prefix
            )
            continue
        world = Path(corpus) if corpus is not None else corpus_near(find_model(reference))
        if world is None or not (world / "manifest.json").exists():
            raise UserError(
                f"no story world near '{reference}' to evaluate on; give --corpus FOLDER "
                "(from `glassbox data storyworld`) or --text FILE"
            )
        results[reference] = evaluate_story_world(model, tokenizer, world, limits=limit or None)
    return results


def corpus_near(folder: Path) -> Path | None:
    """The corpus of the quickstart that a model folder lies in."""
    for parent in folder.resolve().parents:
        if (parent / "corpus" / "manifest.json").exists():
            return parent / "corpus"
    return None
