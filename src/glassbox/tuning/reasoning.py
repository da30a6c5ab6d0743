"""Test-time compute: majority votes over several answers, and budget forcing for the thinking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed
from glassbox.inference.chat import ChatPrompts
from glassbox.inference.detokenizer import decode
from glassbox.inference.engine import Engine
from glassbox.inference.sampling.params import SamplingParams
from glassbox.tokenizers import Tokenizer
from glassbox.tuning.grading.graders import final_number

Extract = Callable[[str], str | None]


class ThinkingBudget(Spec):
    """Minimum and maximum number of thinking tokens."""

    end_of_thought: str = Field("</think>", min_length=1, description="text that ends the thinking")
    min_tokens: int = Field(
        0, ge=0, description="minimum number of thinking tokens; earlier ends are suppressed"
    )
    max_tokens: int = Field(
        512, gt=0, description="maximum number of thinking tokens; the end is inserted there"
    )
    wait: str = Field(
        "Wait", min_length=1, description="text inserted in place of a suppressed end"
    )
    answer_tokens: int = Field(128, gt=0, description="maximum number of tokens after the thinking")

    @model_validator(mode="after")
    def _budget_fits(self) -> ThinkingBudget:
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens = {self.min_tokens} is more than max_tokens = {self.max_tokens}"
            )
        return self


@dataclass(frozen=True)
class Reasoned:
    """An answer, the thinking before it, and the number of tokens of both; withheld: number of
    suppressed ends of thinking.
    """

    thought: str
    answer: str
    thinking_tokens: int
    answer_tokens: int
    withheld: int


@dataclass(frozen=True)
class Vote:
    """The majority answer of n (None if there is none), its share, and all answers."""

    answer: str | None
    share: float
    answers: list[str | None]
    texts: list[str]
    num_tokens: int


def number_or_last_line(text: str) -> str | None:
    """The number after 'Answer:', else the last non-empty line, else None.

    >>> number_or_last_line("1 + 1 = 2.\\nAnswer: 2.0"), number_or_last_line("so:\\n Mia \\n")
    ('2', 'Mia')
    """
    number = final_number(text)
    if number is not None:
        return format(number.normalize(), "f")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def majority(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """The most frequent answer, ties in favour of the first, and its share of all.

    >>> majority(["3", "4", None, "4"])
    ('4', 0.5)
    """
    said = [answer for answer in answers if answer is not None]
    if not said:
        return None, 0.0
    best, count = Counter(said).most_common(1)[0]  # of equals the first counted
    return best, count / len(answers)


def self_consistency(
    engine: Engine,
    prompts: Sequence[Sequence[dict[str, Any]]],
    *,
    samples: int,
    max_tokens: int = 256,
    temperature: float = 0.7,
    seed: int = 0,
    extract: Extract = number_or_last_line,
) -> list[Vote]:
    """Self-consistency: the majority answer of `samples` samples for each chat prompt.

    Source: Wang et al., arXiv:2203.11171. Tested against: counting by hand.
    """
    chats = ChatPrompts(_tokenizer(engine))
    common = chats.params(SamplingParams(max_tokens=max_tokens, temperature=temperature, n=samples))
    params = [
        common.model_copy(update={"seed": derive_seed(seed, "vote", number)})
        for number in range(len(prompts))
    ]
    completions = engine.generate([chats.ids(prompt) for prompt in prompts], params)
    votes = []
    for first in range(0, len(completions), samples):
        part = completions[first : first + samples]
        texts = [completion.text or "" for completion in part]
        answers = [extract(text) for text in texts]
        best, share = majority(answers)
        votes.append(Vote(best, share, answers, texts, sum(len(c.token_ids) for c in part)))
    return votes


def think_within(
    engine: Engine,
    prompt: Sequence[dict[str, Any]],
    budget: ThinkingBudget,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> Reasoned:
    """Budget forcing: an end of thinking before the minimum is replaced by `wait`, and one is
    inserted at the maximum.

    The thinking ends with `end_of_thought` or the end of the turn. Inserted tokens count towards
    the budget. Raises UserError if prompt and budget do not fit the model's context.
    Source: Muennighoff et al., s1, arXiv:2501.19393, section 3.1.
    """
    tokenizer = _tokenizer(engine)
    chats = ChatPrompts(tokenizer)
    ids = chats.ids(prompt)
    need = (
        len(ids)
        + budget.max_tokens
        + budget.answer_tokens
        + len(tokenizer.encode(budget.end_of_thought))
    )
    if need > engine.context_length:
        raise UserError(
            f"prompt, thinking and answer may come to {need} tokens; the model's context is "
            f"{engine.context_length}: lower max_tokens or answer_tokens"
        )
    wait = tokenizer.encode(budget.wait)
    thought: list[int] = []
    withheld = turn = 0
    while (left := budget.max_tokens - len(thought)) > 0:
        (completion,) = engine.generate(
            [[*ids, *thought]],
            chats.params(
                SamplingParams(
                    max_tokens=left,
                    temperature=temperature,
                    seed=derive_seed(seed, "think", turn),
                    stop=(budget.end_of_thought,),
                )
            ),
        )
        turn += 1
        thought += _without_stop(tokenizer, completion.token_ids, completion.text or "")
        if completion.finish_reason == "length" or len(thought) >= budget.min_tokens:
            break
        withheld += 1
        thought += wait
    thought = thought[: budget.max_tokens]
    closing = tokenizer.encode(budget.end_of_thought, allow_special=True)
    (answer,) = engine.generate(
        [[*ids, *thought, *closing]],
        chats.params(
            SamplingParams(
                max_tokens=budget.answer_tokens,
                temperature=temperature,
                seed=derive_seed(seed, "answer"),
            )
        ),
    )
    text = decode(tokenizer, thought)
    return Reasoned(text, answer.text or "", len(thought), len(answer.token_ids), withheld)


def _without_stop(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[int]:
    """The ids of `text`: those before the stop string, and the rest of the text encoded again."""
    kept = list(ids)
    while kept and not text.startswith(decode(tokenizer, kept)):
        kept.pop()
    while kept and tokenizer.id_to_token(kept[-1]) in tokenizer.special_tokens:
        kept.pop()
    return kept + tokenizer.encode(text[len(decode(tokenizer, kept)) :])


def _tokenizer(engine: Engine) -> Tokenizer:
    if engine.tokenizer is None:
        raise UserError("reasoning needs an engine with a tokenizer: Engine(model, tokenizer)")
    return engine.tokenizer
