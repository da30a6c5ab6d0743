"""A task on its documents: prompts with their few-shot examples, requests, judged answers.

Tested against: lm-evaluation-harness, request strings byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.filters import Pipeline
from glassbox.evaluation.tasks.functions import Function, Rows
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import MultipleChoice, Output
from glassbox.evaluation.tasks.rendering import Renderer
from glassbox.evaluation.tasks.requests import Answer, Request
from glassbox.evaluation.tasks.spec import Documents, FewShot, Options, Prompt, Target, Text

Doc = dict[str, Any]
FEWSHOT_SEED = 1234


class TaskSpec(Spec):
    """A task. `build` opens its documents.

    about: one line for the list of tasks. trusted: it is one of ours, so that its templates need no
    process of their own. results: (document, answers) to values by metric, in place of the output's own.
    """

    task: str
    alias: str | None = None
    about: str = ""
    version: float | str = 1
    documents: Documents = Documents()
    prompt: Prompt = Prompt()
    fewshot: FewShot = FewShot()
    output: Output = MultipleChoice()
    filters: tuple[Pipeline, ...] = (Pipeline(),)
    metrics: tuple[Metric, ...] = ()
    results: Function | None = None
    trusted: bool = False

    @property
    def digest(self) -> str:
        """Hash of the spec and of the functions it names."""
        content = self.model_dump(mode="json", exclude={"about", "alias", "trusted"})
        functions = sorted({one.digest for one in _functions(self)})
        return hashlib.sha256(json.dumps([content, functions], sort_keys=True).encode()).hexdigest()

    def build(self, data: Data, *, num_fewshot: int | None = None) -> Task:
        """The task on its documents. Raises UserError where there are none, or they are not readable."""
        return Task(self, data, num_fewshot=num_fewshot)


def _functions(value: Any) -> list[Function]:
    if isinstance(value, Function):
        return [value]
    if isinstance(value, Spec):
        return [
            one for name in type(value).model_fields for one in _functions(getattr(value, name))
        ]
    if isinstance(value, tuple):
        return [one for item in value for one in _functions(item)]
    return []


@dataclass(frozen=True)
class ChatSettings:
    """How a prompt becomes a chat.

    render: messages to text (`AskedModel.render_chat`). multiturn: few-shot examples are turns of
    their own; else all of it is one question.
    """

    render: Callable[..., str]
    multiturn: bool = False


@dataclass(frozen=True)
class Item:
    """A document and what is asked about it."""

    doc_id: int
    doc: Doc
    requests: list[Request]


@dataclass
class _Turn:
    role: str
    content: str
    delimiter: str = ""


def _joined(left: str | None, right: str | None, between: str) -> str:
    """Both, with `between` where neither has white space at the border."""
    if not left or not right:
        return left or right or ""
    spaced = left[-1].isspace() or right[0].isspace()
    return left + right if spaced else left + between + right


class Task:
    """A `TaskSpec` and its documents.

    num_fewshot: in place of the spec's own count, unless that is 0.
    """

    def __init__(self, spec: TaskSpec, data: Data, *, num_fewshot: int | None = None) -> None:
        self.where = f"task '{spec.task}'"
        if not spec.metrics:
            names = spec.output.own_metrics
            metrics = tuple(Metric(metric=name) for name in names)
            spec = spec.model_copy(update={"metrics": metrics})
        for metric in spec.metrics:
            metric.check(self.where)
        self.spec = spec
        self.data = data
        self._renderer = Renderer(self.where, trusted=spec.trusted)
        split = spec.documents.evaluated
        if split is None:
            raise UserError(f"{self.where} names no split to evaluate; give test or validation")
        self.split = split
        self.docs = self._rows(split, spec.documents.process)
        if not self.docs:
            raise UserError(f"{self.where}: no documents are left of split '{split}'")
        self.features = self.docs.features
        own = spec.fewshot.count
        self.num_fewshot: int = (own if num_fewshot is None or own == 0 else num_fewshot) or 0
        self.metrics = spec.metrics
        self.metric_names = [metric.name for metric in spec.metrics]
        self.has_choices = spec.prompt.choices is not None
        self.option_delimiter = spec.prompt.target_delimiter
        first = self.docs[0]
        self.many_contexts = self.has_choices and isinstance(self.text(first), int)
        self._pool: list[Doc] | None = None
        self._solved: dict[int, list[_Turn]] = {}

    def _rows(self, split: str, process: Function | None) -> Rows:
        rows = self.data.rows(self.spec.documents, split, self.spec.task)
        if process is None:
            return rows
        try:
            return Rows(process.load()(Rows(dict(row) for row in rows)))
        except UserError:
            raise
        except Exception as error:  # rows that lack what the function reads
            raise UserError(
                f"{self.where}: the documents of split '{split}' cannot be prepared: "
                f"{type(error).__name__}: {error}; its columns are {', '.join(rows.column_names)}"
            ) from None

    # ---- fields of a document ---------------------------------------------------------------

    def _value(self, source: Any, doc: Doc, field: str) -> Any:
        return self._renderer.value(source, doc, self.features, field)

    def text(self, doc: Doc, source: Text | None = None) -> str | int:
        """The question; a number where the options are contexts (`many_contexts`): the right one."""
        source = self.spec.prompt.text if source is None else source
        value = self._value(source, doc, "text")
        if isinstance(value, str) and self._is_template(source) and self.has_choices:
            return int(value) if value.isascii() and value.isdigit() else value
        return value

    def target(self, doc: Doc, source: Target | None = None) -> Any:
        """The answer: text, the option's index, or a list of right ones."""
        source = self.spec.prompt.target if source is None else source
        value = self._value(source, doc, "target")
        if isinstance(value, tuple):
            return list(value)
        if not isinstance(value, str) or not self._is_template(source):
            return value
        if self.has_choices and value.isascii() and value.isdigit():
            return int(value)
        if len(value) >= 2 and value[0] == "[" and value[-1] == "]":
            try:
                return self._renderer.literal(value, "target")
            except UserError:
                return value
        return value

    def choices(self, doc: Doc, source: Options | None = None) -> list[str]:
        """The options. Raises UserError where the document has none."""
        source = self.spec.prompt.choices if source is None else source
        value = self._value(source, doc, "choices")
        if isinstance(value, str) and self._is_template(source):
            value = self._renderer.literal(value, "choices")
        if not isinstance(value, list | tuple) or not value:
            raise UserError(
                f"{self.where}: 'choices' of a document is {str(value)[:60]!r}; give a list"
            )
        return [str(one) for one in value]

    def _is_template(self, source: Any) -> bool:
        return isinstance(source, str) and source not in self.features

    def gold(self, doc: Doc, choices: Sequence[str]) -> int | list[int]:
        """The index of the right option, or of all right ones; -100 where it is none of them."""
        gold = self.text(doc) if self.many_contexts else self.target(doc)
        if isinstance(gold, list):
            return [one if isinstance(one, int) and one < len(choices) else -100 for one in gold]
        if isinstance(gold, str):
            return choices.index(gold) if gold in choices else -100
        return gold if gold < len(choices) else -100

    # ---- prompts ----------------------------------------------------------------------------

    def pool(self) -> list[Doc]:
        """What examples are taken from."""
        if self._pool is None:
            shots, documents = self.spec.fewshot, self.spec.documents
            if shots.split is not None:
                self._pool = self._rows(shots.split, shots.process or documents.process)
            elif isinstance(shots.samples, Function):
                self._pool = list(shots.samples.load()())
            elif shots.samples is not None:
                self._pool = [dict(one) for one in shots.samples]
            else:
                split = documents.train or documents.validation or self.split
                try:
                    self._pool = self._rows(split, documents.process)
                except UserError as error:
                    raise UserError(f"{error}; or use --num-fewshot 0") from None
        return self._pool

    def _examples(self, doc: Doc, doc_id: int, generator: random.Random) -> list[Doc]:
        """The examples for a document, drawn as lm-evaluation-harness draws them."""
        count = self.num_fewshot
        if self.spec.fewshot.sampler == "per_document":
            if count >= len(self.docs):
                raise UserError(f"{self.where}: {count} examples of {len(self.docs)} documents")
            places = random.Random(FEWSHOT_SEED + doc_id).sample(range(len(self.docs) - 1), count)
            return [self.docs[place + (place >= doc_id)] for place in places]
        pool = self.pool()
        without = self.spec.fewshot.split == self.spec.documents.test
        if count + without > len(pool):
            raise UserError(
                f"{self.where}: {count} few-shot examples of {len(pool)} documents; use a smaller "
                "--num-fewshot"
            )
        if self.spec.fewshot.sampler == "first_n":
            left = [one for one in pool if one != doc] if without else pool
            return left[:count]
        if not without:
            return generator.sample(pool, count)
        drawn = [one for one in generator.sample(pool, count + 1) if one != doc][:count]
        if len(drawn) < count:  # the document was there more than once
            drawn = generator.sample([one for one in pool if one != doc], count)
        return drawn

    def context(
        self,
        doc: Doc,
        doc_id: int,
        generator: random.Random,
        *,
        system: str | None,
        chat: ChatSettings | None,
    ) -> str | list[str]:
        """Everything before the answer; one for each option where options are contexts."""
        prompt = self.spec.prompt
        gen_prefix = self._text_or_none(prompt.gen_prefix, doc, "gen_prefix")
        description = str(self._value(prompt.description, doc, "description") or "")
        turns: list[_Turn] = []
        if start := _joined(system, description, prompt.fewshot_delimiter):
            turns.append(_Turn("system", start))
        for example in self._examples(doc, doc_id, generator) if self.num_fewshot else ():
            key = id(example)  # examples live as long as the task
            if key not in self._solved:
                self._solved[key] = self._example_turns(example)
            turns += self._solved[key]
        if self.many_contexts:
            return [
                self._join(
                    [*turns, *self._turns(one, None, None, gen_prefix, "", "")], gen_prefix, chat
                )
                for one in self.choices(doc)
            ]
        last = self._turns(self.text(doc), None, None, gen_prefix, prompt.target_delimiter, "")
        return self._join([*turns, *last], gen_prefix, chat)

    def _example_turns(self, example: Doc) -> list[_Turn]:
        """A solved example: its question and its answer."""
        prompt, shots = self.spec.prompt, self.spec.fewshot
        question = self.text(example, shots.text)
        has_options = shots.choices is not None or self.has_choices
        options = self.choices(example, shots.choices) if has_options else None
        answer = self.target(example, shots.target)
        if self.many_contexts:
            assert options is not None
            question, options = options[int(question)], None
        return self._turns(
            question,
            options,
            answer,
            self._text_or_none(shots.gen_prefix or prompt.gen_prefix, example, "gen_prefix"),
            _given(shots.target_delimiter, prompt.target_delimiter),
            _given(shots.fewshot_delimiter, prompt.fewshot_delimiter),
        )

    def _text_or_none(self, source: str | None, doc: Doc, field: str) -> str | None:
        return None if source is None else str(self._value(source, doc, field))

    def _turns(
        self,
        question: Any,
        options: Sequence[str] | None,
        answer: Any,
        gen_prefix: str | None,
        target_delimiter: str,
        fewshot_delimiter: str,
    ) -> list[_Turn]:
        """A question, and its answer or what begins it."""
        if not isinstance(question, str):
            raise UserError(
                f"{self.where}: 'text' of a document is {str(question)[:60]!r}, no text"
            )
        answered = answer is not None and answer != ""
        spaced = question == "" or question[-1].isspace()
        between = ""
        if (answered and not gen_prefix) or (
            gen_prefix and not spaced and not gen_prefix[0].isspace()
        ):
            between = target_delimiter
        turns = [_Turn("user", question, between)]
        if answered:
            if options and isinstance(answer, int):
                answer = options[answer] if answer < len(options) else None
            elif isinstance(answer, list):
                answer = answer[0] if answer else None
            if not isinstance(answer, str):
                raise UserError(f"{self.where}: the target of an example is {answer!r}, no text")
            turns.append(_Turn("assistant", _joined(gen_prefix, answer, " "), fewshot_delimiter))
        elif gen_prefix:
            turns.append(_Turn("assistant", gen_prefix))
        return turns

    def _join(self, turns: list[_Turn], gen_prefix: str | None, chat: ChatSettings | None) -> str:
        if chat is None:
            return "".join(turn.content + turn.delimiter for turn in turns)
        turns = turns if chat.multiturn else _as_one(turns)
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return chat.render(messages, go_on=bool(gen_prefix))

    # ---- requests and answers ---------------------------------------------------------------

    def items(
        self,
        *,
        limit: int = 0,
        system: str | None = None,
        chat: ChatSettings | None = None,
        seed: int = FEWSHOT_SEED,
    ) -> list[Item]:
        """Documents, the first `limit` of them (0: all), with their requests."""
        generator = random.Random(seed)
        self.option_delimiter = self.spec.prompt.target_delimiter
        if chat is not None:
            prefix = self.spec.prompt.gen_prefix
            if not prefix or prefix[-1].isspace():
                self.option_delimiter = ""
        items = []
        for doc_id, doc in enumerate(self.docs[:limit] if limit else self.docs):
            try:
                context = self.context(doc, doc_id, generator, system=system, chat=chat)
                requests = self.spec.output.requests(self, doc, context)
            except UserError as error:
                said = str(error).removeprefix(f"{self.where}: ")
                raise UserError(f"{self.where}, document {doc_id}: {said}") from None
            items.append(Item(doc_id, doc, requests))
        return items

    def judge(self, item: Item, results: Sequence[Any]) -> dict[str, Any]:
        """Values by metric, from the filtered answers to an item's requests."""
        try:
            if self.spec.results is not None:
                return dict(self.spec.results.load()(item.doc, results))
            return self.spec.output.judge(self, item.doc, results)
        except UserError:
            raise
        except Exception as error:  # a row whose answer is none of the options, say
            raise UserError(
                f"{self.where}, document {item.doc_id}: its answers cannot be judged: "
                f"{type(error).__name__}: {error}"
            ) from None


def filtered(
    pipeline: Pipeline, items: Sequence[Item], answers: Mapping[str, Answer]
) -> list[list[Any]]:
    """The answers to each item's requests behind a pipeline; repeats of a request are one list to it."""
    responses: list[Any] = []
    docs: list[Doc] = []
    counts = []
    for item in items:
        lists = by_request(item, answers)
        counts.append(len(lists))
        responses += lists
        docs += [item.doc] * len(lists)
    done = pipeline.apply(responses, docs)
    results, start = [], 0
    for count in counts:
        results.append(list(done[start : start + count]))
        start += count
    return results


def by_request(item: Item, answers: Mapping[str, Answer]) -> list[list[Answer]]:
    """The answers to each request, repeats of one together."""
    lists: list[list[Answer]] = []
    for request in item.requests:
        if request.repeat == 0:
            lists.append([])
        lists[-1].append(answers[request.key])
    return lists


def document_digest(doc: Doc) -> str:
    """Hash of a document."""
    content = json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _given(own: str | None, other: str) -> str:
    return other if own is None else own


def _as_one(turns: list[_Turn]) -> list[_Turn]:
    """All turns as one question, between the system's turn and what begins the answer."""
    system = turns[:1] if turns[0].role == "system" else []
    turns = turns[len(system) :]
    begun = turns[-1:] if turns[-1].role == "assistant" else []
    asked = turns[: len(turns) - len(begun)]
    text = "".join(turn.content + turn.delimiter for turn in asked[:-1]) + asked[-1].content
    return [*system, _Turn("user", text), *begun]
