"""glassbox data classifier: train a classifier of texts, for quality, toxicity or anything labelled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def classifier(
    labelled: Annotated[
        list[str] | None, typer.Argument(help="Rows with keys `text` and `label`.")
    ] = None,
    good: Annotated[
        list[str] | None, typer.Option("--good", help="Texts labelled good; may be repeated.")
    ] = None,
    bad: Annotated[
        list[str] | None, typer.Option("--bad", help="Texts labelled bad; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the model.")] = Path("classifier"),
    bits: Annotated[
        int, typer.Option("--bits", help="Number of hash buckets for n-grams: 2^bits.")
    ] = 18,
    ngrams: Annotated[
        int, typer.Option("--ngrams", help="Maximum length of n-grams, in words.")
    ] = 2,
    l2: Annotated[float, typer.Option("--l2", help="L2 regularization.")] = 1e-6,
    heldout_share: Annotated[
        float, typer.Option("--heldout-share", help="Share of the rows held out.")
    ] = 0.1,
) -> None:
    """Train a linear classifier on hashed n-grams, as fastText's; a curation step uses it by its folder.

    Example: `glassbox data classifier --good books --bad spam.jsonl --out quality`, then in a recipe
    `{kind: classifier, model: quality, min_score: 0.5}`
    """
    from glassbox.core.config import parse
    from glassbox.core.errors import UserError
    from glassbox.core.progress import ProgressLine
    from glassbox.data.conversations import read_rows
    from glassbox.data.curation.classifier import FeatureConfig
    from glassbox.data.curation.classifier_training import STEPS, train_classifier
    from glassbox.data.text import find_corpus, read_documents

    if not labelled and not (good and bad):
        raise UserError("data classifier: name labelled rows, or texts as --good and as --bad")
    config = parse(FeatureConfig, {"bits": bits, "ngrams": ngrams}, where="data classifier")
    if not 0 <= heldout_share < 1:
        raise UserError(f"--heldout-share = {heldout_share}; give a share from 0 to below 1")
    if l2 < 0:
        raise UserError(f"--l2 = {l2}; give 0 or more")

    def rows() -> Iterator[tuple[str, str]]:
        for source in labelled or []:
            for place, row in read_rows(source):
                text, label = row.get("text"), row.get("label")
                if not isinstance(text, str) or not isinstance(label, (str, int)):
                    raise UserError(f"{place}: give the keys text and label, a text or a number")
                yield text, str(label)
        for label, names in (("good", good), ("bad", bad)):
            for name in names or []:
                for text in read_documents(find_corpus(name)):
                    yield text, label

    with ProgressLine("train classifier", STEPS) as line:
        model = train_classifier(
            rows(),
            config,
            l2=l2,
            heldout_share=heldout_share,
            progress=lambda step, loss: line.update(min(step, STEPS), f"loss {loss:.4f}"),
        )
    model.save(out)
    trained = ", ".join(f"{label} {count:,}" for label, count in model.report["trained_on"].items())
    print(f"trained on {trained} texts", file=sys.stderr)
    if held := model.report.get("heldout"):
        areas = ", ".join(f"{label} {area:.3f}" for label, area in held["roc_area"].items())
        print(
            f"of {held['texts']:,} held out {100 * held['accuracy']:.1f}% are right; "
            f"area under the ROC curve: {areas}",
            file=sys.stderr,
        )
    print(
        f"use it in a recipe: {{kind: classifier, model: {out}, label: {model.labels[-1]}, "
        "min_score: 0.5}",
        file=sys.stderr,
    )
