"""The four kinds of output: what each asks of a model for a document, and how it judges the answers.

Tested against: lm-evaluation-harness, request strings byte for byte and the verdict on every item.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric, exact_match
from glassbox.evaluation.tasks.requests import Request

Doc = dict[str, Any]
Context = str | list[str]


class Task(Protocol):
    """What an output needs of its task."""

    where: str
    metric_names: list[str]
    metrics: tuple[Metric, ...]
    option_delimiter: str
    has_choices: bool

    def target(self, doc: Doc) -> Any:
        """The answer."""

    def choices(self, doc: Doc) -> list[str]:
        """The options."""

    def gold(self, doc: Doc, choices: Sequence[str]) -> int | list[int]:
        """The index of the right option, or of all right ones."""


class Loglikelihood(Spec):
    """The probability of the target behind the prompt, and whether greedy decoding writes it."""

    kind: Literal["loglikelihood"] = "loglikelihood"

    @property
    def own_metrics(self) -> tuple[str, ...]:
        """The metrics computed unless the task specifies others."""
        return ("perplexity", "acc")

    def requests(self, task: Task, doc: Doc, context: Context) -> list[Request]:
        """One request: prompt and target."""
        return [Request("loglikelihood", (context, str(task.target(doc))))]

    def judge(self, task: Task, doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
        """perplexity: log p(target); acc: whether it is what greedy decoding writes."""
        log_prob, greedy = results[0][:2]
        found = {"perplexity": log_prob, "acc": int(greedy)}
        return {name: value for name, value in found.items() if name in task.metric_names}


class Rolling(Spec):
    """The probability of a whole text, read in windows of the model's context that do not overlap."""

    kind: Literal["loglikelihood_rolling"] = "loglikelihood_rolling"

    @property
    def own_metrics(self) -> tuple[str, ...]:
        """The metrics computed unless the task specifies others."""
        return ("word_perplexity", "byte_perplexity", "bits_per_byte")

    def requests(self, task: Task, doc: Doc, context: Context) -> list[Request]:
        """One request: the text."""
        return [Request("loglikelihood_rolling", (str(task.target(doc)),))]

    def judge(self, task: Task, doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
        """(log p, words) or (log p, bytes) of the text."""
        text = str(task.target(doc))
        return rolling_values(results[0], text, task.metric_names)


def rolling_values(log_prob: float, text: str, names: Sequence[str]) -> dict[str, Any]:
    """Pairs of log p and units, words or bytes, of a text."""
    num_bytes = len(text.encode("utf-8"))
    found = {
        "word_perplexity": (log_prob, len(re.split(r"\s+", text))),
        "byte_perplexity": (log_prob, num_bytes),
        "bits_per_byte": (log_prob, num_bytes),
    }
    return {name: value for name, value in found.items() if name in names}


class MultipleChoice(Spec):
    """The option of the highest probability.

    acc: by log p(option | prompt); acc_norm, acc_bytes, acc_tokens: by that divided by the option's
    characters, bytes or tokens; acc_mutual_info: by log p(option | prompt) - log p(option).
    """

    kind: Literal["multiple_choice"] = "multiple_choice"

    @property
    def own_metrics(self) -> tuple[str, ...]:
        """The metrics computed unless the task specifies others."""
        return ("acc", "acc_norm")

    def requests(self, task: Task, doc: Doc, context: Context) -> list[Request]:
        """One request an option; as many again without the prompt for acc_mutual_info."""
        choices = task.choices(doc)
        between = task.option_delimiter
        if isinstance(context, list):
            ending = f"{between}{task.target(doc)}"
            pairs = [(one, ending) for one in context]
        else:
            pairs = [(context, f"{between}{choice}") for choice in choices]
        if "acc_mutual_info" in task.metric_names:
            pairs += [("", f"{between}{choice}") for choice in choices]
        return [Request("loglikelihood", pair) for pair in pairs]

    def judge(self, task: Task, doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
        """Whether the right option wins, by each way of comparing. Of equals the first wins."""
        names = task.metric_names
        choices = task.choices(doc)
        scores = np.array([one[0] for one in results], dtype=np.float64)
        greedy = [bool(one[1]) for one in results]
        alone = scores[len(choices) :]
        scores = scores[: len(choices)]
        lengths = {
            "acc": np.ones(len(choices)),
            "acc_norm": np.array([float(len(one)) for one in choices]),
            "acc_bytes": np.array([float(len(one.encode("utf-8"))) for one in choices]),
        }
        if "acc_tokens" in names:
            lengths["acc_tokens"] = np.array([float(one[2]) for one in results[: len(choices)]])
        gold = task.gold(doc, choices)
        right = set(gold) if isinstance(gold, list) else {gold}
        with np.errstate(divide="ignore", invalid="ignore"):
            picked = {name: int(np.argmax(scores / size)) for name, size in lengths.items()}
        found: dict[str, Any] = {name: float(pick in right) for name, pick in picked.items()}
        best = np.exp(scores - scores.max())
        first = gold[0] if isinstance(gold, list) else gold
        found |= {
            "exact_match": int(any(greedy[one] for one in right if one >= 0)),
            "f1": (gold, picked["acc"]),
            "mcc": (gold, picked["acc"]),
            "brier_score": (first, (best / best.sum()).tolist()),
            "likelihood": (gold, scores.tolist()),
        }
        if "acc_mutual_info" in names:
            found["acc_mutual_info"] = float(int(np.argmax(scores - alone)) in right)
        return {name: value for name, value in found.items() if name in names}


class GenerateUntil(Spec):
    """What the model writes behind the prompt, up to a stop string.

    generation_kwargs: until, max_gen_toks (256 unless given), do_sample, temperature, top_p, top_k.
    repeats: how many answers are drawn to each prompt.
    """

    kind: Literal["generate_until"] = "generate_until"
    generation_kwargs: dict[str, Any] = Field(default_factory=dict)
    repeats: int = Field(1, gt=0)

    @property
    def own_metrics(self) -> tuple[str, ...]:
        """The metrics computed unless the task specifies others."""
        return ("exact_match",)

    def requests(self, task: Task, doc: Doc, context: Context) -> list[Request]:
        """One request for each answer that is drawn."""
        options = copy.deepcopy(self.generation_kwargs)
        return [
            Request("generate_until", (context, options), repeat=repeat)
            for repeat in range(self.repeats)
        ]

    def judge(self, task: Task, doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
        """Each metric of the answer against the target, the best of them where there are several."""
        answer = results[0]
        gold = task.target(doc)
        if task.has_choices:
            gold = task.choices(doc)[gold]
        golds = list(gold) if isinstance(gold, list) else [gold]
        found: dict[str, Any] = {}
        for metric in task.metrics:
            if metric.name == "bypass":
                found["bypass"] = None
                continue
            if isinstance(metric.metric, Function):
                judge = metric.metric.load()
                value = judge(references=golds, predictions=[answer], **metric.options)
                found |= value if isinstance(value, dict) else {metric.name: value}
                continue
            if metric.name != "exact_match":
                raise UserError(
                    f"{task.where}: metric '{metric.name}' is not supported for generated "
                    "text; exact_match is, and what a task's own `results` function gives"
                )
            if isinstance(answer, list):
                raise UserError(
                    f"{task.where}: the filters leave a list of answers; end with take_first"
                )
            values = [exact_match(str(answer), str(one), **metric.options) for one in golds]
            found[metric.name] = max(values)
        return found


class Spans(Spec):
    """CORE's way of judging texts that are already rendered.

    options: the text wins whose mean loss is the smallest over the tokens that not all texts begin
    with; contexts: over those that all texts end with; continuation: greedy decoding writes it.
    """

    kind: Literal["spans"] = "spans"
    form: Literal["options", "contexts", "continuation"]

    @property
    def own_metrics(self) -> tuple[str, ...]:
        """What is measured unless the task says otherwise."""
        return ("acc",)

    def requests(self, task: Task, doc: Doc, context: Context) -> list[Request]:
        """One request: all texts."""
        between = task.option_delimiter
        if self.form == "options":
            texts = [f"{context}{between}{choice}" for choice in task.choices(doc)]
        elif isinstance(context, list):
            texts = [f"{one}{between}{task.target(doc)}" for one in context]
        else:
            before = f"{context}{between}"
            texts = [before.strip(), f"{before}{task.target(doc)}"]
        return [Request("spans", (self.form, texts))]

    def judge(self, task: Task, doc: Doc, results: Sequence[Any]) -> dict[str, Any]:
        """Whether the right text wins (of equals the first), or the continuation is greedy."""
        spans = results[0]
        if self.form == "continuation":
            return {"acc": float(bool(spans[0][1]))}
        losses = [-log_prob / count for log_prob, _, count in spans]
        return {"acc": float(losses.index(min(losses)) == task.gold(doc, task.choices(doc)))}


Output = Annotated[
    Loglikelihood | Rolling | MultipleChoice | GenerateUntil | Spans, Field(discriminator="kind")
]
