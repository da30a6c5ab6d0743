"""The text classifier: held to scikit-learn on the same features, saved and opened, used as a step."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from glassbox.cli.data_classifier import classifier
from glassbox.core.errors import UserError
from glassbox.data.curation.classifier import (
    ClassifierSpec,
    FeatureConfig,
    TextClassifier,
    features,
    text_words,
)
from glassbox.data.curation.classifier_training import (
    Examples,
    evaluate,
    fit,
    roc_area,
    train_classifier,
)
from glassbox.data.curation.step import Dropped, Record
from glassbox.data.storyworld import StoryWorldConfig, generate

CONFIG = FeatureConfig(bits=14)


def labelled(count: int) -> list[tuple[str, str]]:
    """Stories, advertisements and code, some of each half and half with another kind."""
    draw = random.Random(0)
    stories = [item.text for item in generate(StoryWorldConfig(), "story", "train", count=count)]
    offers = [
        "BUY now!!!",
        "50% off",
        "click here",
        "free shipping",
        "limited offer",
        "best price $9.99",
    ]
    lines = ["x = y + 1", "def f(a, b):", "return self.x", "for i in range(10):", "import os"]
    rows = []
    for story in stories:
        rows.append((story, "good"))
        for label, parts, mark in (("spam", offers, " "), ("code", lines, "\n")):
            text = mark.join(draw.choices(parts, k=draw.randint(3, 20)))
            rows.append((text + mark + story[: draw.choice([0, 0, 100])], label))
    return rows


def matrix(texts: list[str]) -> csr_matrix:
    """Mean of one-hot vectors, made without our Examples."""
    rows, columns, values = [], [], []
    for number, text in enumerate(texts):
        counts = Counter(features(text, CONFIG).tolist())
        total = sum(counts.values())
        for place, count in counts.items():
            rows.append(number)
            columns.append(place)
            values.append(count / total)
    return csr_matrix((values, (rows, columns)), shape=(len(texts), 1 << CONFIG.bits))


@pytest.mark.parametrize("kinds", [("good", "spam"), ("code", "good", "spam")])
def test_the_optimum_is_scikit_learns(kinds: tuple[str, ...]) -> None:
    rows = [row for row in labelled(60) if row[1] in kinds]
    texts, names = [text for text, _ in rows], [label for _, label in rows]
    numbers = [kinds.index(name) for name in names]
    l2 = 1e-4
    weight, bias = fit(Examples.of(texts, numbers, CONFIG), len(kinds), CONFIG, l2=l2, steps=500)
    # of two classes scikit-learn has one vector, w1 - w0, whose square is twice w1's and w0's together
    penalty = l2 / 2 if len(kinds) == 2 else l2
    peer = LogisticRegression(C=1 / (penalty * len(rows)), tol=1e-10, max_iter=5000)
    peer.fit(matrix(texts), numbers)
    model = TextClassifier(kinds, CONFIG, weight.numpy().astype("f4"), bias.numpy().astype("f4"))
    ours = np.array([model.probabilities(text) for text in texts])
    theirs = peer.predict_proba(matrix(texts))
    # both stop where the gradient is about 1e-9; float32 weights of size ten add 1e-6
    assert np.abs(ours - theirs).max() < 2e-4
    assert theirs[:, 0].std() > 0.02  # and not because all is alike


def test_features_are_hashed_ngrams() -> None:
    config = FeatureConfig(bits=20, ngrams=2)
    assert text_words("Don't pay $1,000!", 99) == [
        "don",
        "'",
        "t",
        "pay",
        "$",
        "#1",
        ",",
        "#3",
        "!",
    ]
    one, two = features("a b c", config), features("c b a", config)
    assert len(one) == 5
    assert set(one[:3]) == set(two[:3])
    assert not set(one[3:]) & set(two[3:])
    assert len(features("w " * 5000, FeatureConfig(max_words=10))) == 19
    assert len(features("", config)) == 0
    assert len(features("中文", config)) == 3
    # the places are part of the format: they have to be the same on every machine and version
    assert features("The cat sat.", FeatureConfig(bits=16)).tolist() == PLACES


PLACES = [2001, 10655, 35567, 53972, 31457, 37931, 18405]


def test_it_tells_texts_apart_is_saved_and_opened(tmp_path: Path) -> None:
    rows = labelled(60)
    model = train_classifier(rows, CONFIG, heldout_share=0.2)
    assert model.labels == ("code", "good", "spam")
    assert model.report["heldout"]["accuracy"] > 0.95
    assert sum(model.report["trained_on"].values()) + model.report["heldout"]["texts"] == len(
        set(rows)
    )
    model.save(tmp_path / "m")
    again = TextClassifier.load(tmp_path / "m")
    for text, _ in rows[:9]:
        assert again.probabilities(text).tolist() == model.probabilities(text).tolist()
        assert abs(float(again.probabilities(text).sum()) - 1) < 1e-6
    assert (
        train_classifier(rows, CONFIG, heldout_share=0.2).weight.tolist() == model.weight.tolist()
    )
    assert evaluate(model, rows)["roc_area"]["good"] > 0.99


def test_the_area_under_the_curve_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    scores, truth = np.round(draw.random(200), 1), draw.random(200) < 0.3
    assert roc_area(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert roc_area(scores, np.ones(200, bool)) is None


def test_as_a_step(tmp_path: Path) -> None:
    train_classifier(labelled(60), CONFIG).save(tmp_path / "m")
    folder = str(tmp_path / "m")
    good = next(iter(generate(StoryWorldConfig(seed=9), "story", "train", count=1))).text
    step: Any = ClassifierSpec(model=folder, min_score=0.5).build()
    step = pickle.loads(pickle.dumps(step))
    kept = step(Record(good, "a:1", {"n": 1}))
    assert kept.text == good
    assert kept.metadata["n"] == 1
    assert 0.5 < kept.metadata["good_score"] <= 1
    dropped = step(Record("BUY now!!! click here 50% off free shipping", "a:2"))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "not good"
    spam: Any = ClassifierSpec(model=folder, label="spam", max_score=0.5, key="s").build()
    assert spam(Record("BUY now!!! click here 50% off", "a:3")).reason == "too spam"
    assert spam(Record(good, "a:4")).metadata["s"] < 0.5
    assert ClassifierSpec(model=folder, min_score=0.5).contents()[folder].startswith("2 files")


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give min_score, max_score, or both"):
        ClassifierSpec(model="m")
    with pytest.raises(UserError, match=r"no classifier at .*config\.json is missing"):
        ClassifierSpec(model=str(tmp_path), min_score=0.1).build()
    model = train_classifier(labelled(20), CONFIG)
    model.save(tmp_path / "m")
    with pytest.raises(UserError, match="has no label 'toxic'; it has code, good, spam"):
        ClassifierSpec(model=str(tmp_path / "m"), label="toxic", max_score=0.1).build()
    weights = tmp_path / "m/model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-9], whole[:100], b"x"):
        weights.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            TextClassifier.load(tmp_path / "m")
    weights.write_bytes(whole)
    note = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps({**note, "labels": ["a"]}))
    with pytest.raises(UserError, match="is damaged"):
        TextClassifier.load(tmp_path / "m")
    with pytest.raises(UserError, match="name labelled rows, or texts as --good and as --bad"):
        classifier(good=["a"])
    with pytest.raises(UserError, match="give texts of two labels or more"):
        train_classifier([("a", "good"), ("b", "good")], CONFIG, heldout_share=0.0)


def test_the_command_and_a_recipe_that_uses_it(tmp_path: Path) -> None:
    rows = labelled(15)
    for kind in ("good", "spam"):
        lines = [json.dumps({"text": text}) for text, label in rows if label == kind]
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(lines))
    (tmp_path / "all.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "glassbox", "data", *words], cwd=tmp_path, capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip

    made = run(
        "classifier", "--good", "good.jsonl", "--bad", "spam.jsonl", "--out", "m", "--bits", "10"
    )
    assert made.returncode == 0, made.stderr
    assert "held out" in made.stderr
    assert TextClassifier.load(tmp_path / "m").labels == ("bad", "good")
    classifier([str(tmp_path / "all.jsonl")], out=tmp_path / "three", bits=10)
    assert TextClassifier.load(tmp_path / "three").labels == ("code", "good", "spam")
    curated = run(
        "curate", "curate-web.yaml", "source=all.jsonl", "out=out",
        "steps=[{kind: classifier, model: m, min_score: 0.5}]",
    )  # fmt: skip
    assert curated.returncode == 0, curated.stderr
    assert "classifier: not good" in curated.stderr
