"""A text classifier, for quality, toxicity or other labels.

Multinomial logistic regression on hashed n-grams, as fastText's classifier without its hidden
layer:
  x = (1 / n) sum over the n words and word n-grams of a text of e_{hash mod buckets}
  p(label | x) = softmax(W x + b)
A model is a folder: config.json and model.safetensors (weight: (buckets, labels), bias: (labels)).
Scoring needs NumPy alone. Source: Joulin et al., arXiv:1607.01759; used for quality by Brown et
al.,
arXiv:2005.14165 (appendix A), and DataComp-LM, arXiv:2406.11794.
Tested against: scikit-learn's LogisticRegression on the same features.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer, write_json
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec, digest_of

SCHEMA = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]")
Floats = NDArray[np.float32]


class FeatureConfig(Spec):
    """Which n-grams of a text count, and into how many places they are hashed."""

    bits: int = Field(18, ge=8, le=26, description="2^bits hash buckets")
    ngrams: int = Field(2, ge=1, le=5, description="maximum length of n-grams, in words")
    max_words: int = Field(
        2000, gt=0, description="number of words read from the beginning of a text"
    )


def text_words(text: str, limit: int) -> list[str]:
    """Words in lower case, numbers as their length, punctuation marks, and single Chinese characters.

    >>> text_words("In 2024, it's 中文!", 20)
    ['in', '#4', ',', 'it', "'", 's', '中', '文', '!']
    """
    words: list[str] = []
    for match in _WORD.finditer(text.lower()):
        word = match[0]
        if word.isdigit():
            words.append(f"#{len(word)}")
        elif _WIDE.search(word):
            words.extend(word)
        else:
            words.append(word)
        if len(words) >= limit:
            return words[:limit]
    return words


def features(text: str, config: FeatureConfig) -> NDArray[np.int64]:
    """The places of all n-grams of a text, in their order, repetitions included."""
    words = text_words(text, config.max_words)
    mask = (1 << config.bits) - 1
    places = [
        zlib.crc32(" ".join(words[i : i + n]).encode("utf-8", "replace"), n) & mask
        for n in range(1, config.ngrams + 1)
        for i in range(len(words) - n + 1)
    ]
    return np.array(places, np.int64)


@dataclass(frozen=True)
class TextClassifier:
    """A trained model. weight: (buckets, labels), bias: (labels)."""

    labels: tuple[str, ...]
    config: FeatureConfig
    weight: Floats
    bias: Floats
    report: dict[str, Any] = field(default_factory=dict)

    def probabilities(self, text: str) -> Floats:
        """p(label | text), in the order of `labels`."""
        places = features(text, self.config)
        logits = self.bias.astype(np.float64)
        if len(places):
            logits = logits + self.weight[places].mean(axis=0, dtype=np.float64)
        weights = np.exp(logits - logits.max())
        return (weights / weights.sum()).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors; the config, by which a model is known, comes last."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        with atomic_writer(folder / WEIGHTS) as stream:
            stream.write(save({"weight": self.weight, "bias": self.bias}))
        content = {
            "schema": SCHEMA,
            "kind": "text_classifier",
            "labels": list(self.labels),
            "features": self.config.model_dump(),
            "report": self.report,
        }
        write_json(folder / CONFIG, content)

    @classmethod
    def load(cls, folder: Path | str) -> TextClassifier:
        """Open a model. Raises UserError where there is none, or a damaged one."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        folder = Path(folder)
        try:
            raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            if raw["schema"] != SCHEMA or raw["kind"] != "text_classifier":
                raise ValueError(f"schema {raw['schema']}, kind {raw['kind']}")
            labels = tuple(str(label) for label in raw["labels"])
            config = FeatureConfig.model_validate(raw["features"])
            tensors = load((folder / WEIGHTS).read_bytes())
            weight, bias = tensors["weight"], tensors["bias"]
            if weight.shape != (1 << config.bits, len(labels)) or bias.shape != (len(labels),):
                raise ValueError(f"weights of {weight.shape} and {bias.shape}")
        except FileNotFoundError as error:
            raise UserError(
                f"no classifier at '{folder}' ({Path(str(error.filename)).name} is missing); train one: "
                "glassbox data classifier --good GOOD --bad BAD --out FOLDER"
            ) from None
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise UserError(
                f"the classifier at '{folder}' is damaged ({error}); train it again"
            ) from None
        return cls(labels, config, weight, bias, raw.get("report") or {})


class ClassifierSpec(StepSpec):
    """Keep documents by the score of a trained classifier; the score is stored in the metadata,
    under `key`.
    """

    kind: Literal["classifier"] = "classifier"
    model: str = Field(description="folder that `glassbox data classifier` wrote")
    label: str = Field(
        "good", description="the label whose probability is the score, such as good or toxic"
    )
    min_score: float | None = Field(
        None, ge=0, le=1, description="drop documents with a lower score"
    )
    max_score: float | None = Field(
        None, ge=0, le=1, description="drop documents with a higher score"
    )
    key: str = Field("", description="key of the score in the metadata; empty: LABEL_score")

    @model_validator(mode="after")
    def _a_limit(self) -> ClassifierSpec:
        if self.min_score is None and self.max_score is None:
            raise ValueError("step 'classifier': give min_score, max_score, or both")
        return self

    def build(self) -> RecordStep:
        """The step. Raises UserError for a folder without a model and a label that it lacks."""
        model = TextClassifier.load(self.model)
        if self.label not in model.labels:
            raise UserError(
                f"step 'classifier': '{self.model}' has no label '{self.label}'; it has "
                f"{', '.join(model.labels)}"
            )
        return Classify(self, model)

    def contents(self) -> dict[str, str]:
        """A digest of the model."""
        TextClassifier.load(self.model)
        return {self.model: digest_of(Path(self.model))}


@dataclass(frozen=True)
class Classify:
    """The step of a ClassifierSpec."""

    spec: ClassifierSpec
    model: TextClassifier

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec}  # a worker opens the model for itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "spec", state["spec"])
        object.__setattr__(self, "model", TextClassifier.load(self.spec.model))

    def __call__(self, record: Record) -> Record | Dropped:
        """The record with its score, or why it is dropped."""
        spec = self.spec
        place = self.model.labels.index(spec.label)
        score = round(float(self.model.probabilities(record.text)[place]), 4)
        if spec.min_score is not None and score < spec.min_score:
            return Dropped(f"not {spec.label}", f"{score:.3f}, at least {spec.min_score:g} wanted")
        if spec.max_score is not None and score > spec.max_score:
            return Dropped(f"too {spec.label}", f"{score:.3f}, at most {spec.max_score:g} wanted")
        key = spec.key or f"{spec.label}_score"
        return replace(record, metadata={**record.metadata, key: score})
