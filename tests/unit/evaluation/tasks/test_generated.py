"""Tasks whose answers are written: GSM8K's two filters, HumanEval in the sandbox, CoQA's and SQuAD's words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glassbox.evaluation.tasks.builtin import reading
from glassbox.evaluation.tasks.builtin.humaneval import pass_at_k, unbiased_pass_at_k
from glassbox.evaluation.tasks.builtin.wikitext import plain
from glassbox.evaluation.tasks.catalogue import Catalogue
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.local import LocalModel
from glassbox.evaluation.tasks.requests import Request
from glassbox.evaluation.tasks.task import Task
from support.harness import write_rows
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

BUILTIN = Catalogue.builtin()


def built(name: str, tmp_path: Any) -> Task:
    write_rows(tmp_path, name)
    return BUILTIN.tasks[name].build(Data(tmp_path), num_fewshot=0)


@pytest.mark.parametrize(
    ("answer", "strict", "flexible"),
    [
        ("It is 5.\n#### 1,234", 1, 1),
        ("The answer is $1,234.", 0, 1),
        ("#### 12", 0, 0),
        ("so 1234 and then 7", 0, 0),
        ("none", 0, 0),
    ],
)
def test_gsm8k_is_judged_strictly_and_not(
    answer: str, strict: int, flexible: int, tmp_path: Any
) -> None:
    task = built("gsm8k", tmp_path)
    item = task.items(limit=1)[0]
    item.doc["answer"] = "1,000 + 234 = <<1000+234=1234>>1,234\n#### 1,234"
    values = [
        task.judge(item, pipeline.apply([[answer]], [item.doc])) for pipeline in task.spec.filters
    ]
    assert [one["exact_match"] for one in values] == [strict, flexible]


def test_humaneval_runs_what_was_written(tmp_path: Any) -> None:
    task = built("humaneval", tmp_path)
    item = task.items(limit=1)[0]
    (pipeline,) = task.spec.filters
    right = pipeline.apply([["    return a + 1\n"]], [item.doc])
    wrong = pipeline.apply([["    return a\n"]], [item.doc])
    assert task.judge(item, right) == {"pass@1": 1.0}
    assert task.judge(item, wrong) == {"pass@1": 0.0}


def test_pass_at_k_is_the_chance_of_a_draw() -> None:
    tests = "def check(f):\n    assert f() == 1\n\ncheck(one)"
    programs = ["def one(): return 1", "def one(): return 2", "def one(): return 2"]
    found = pass_at_k([tests], [programs], k=[1, 2, 3, 4])
    assert found == pytest.approx({"pass@1": 1 / 3, "pass@2": 2 / 3, "pass@3": 1.0})
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([torch.randperm(10, generator=generator)[:4] for _ in range(4000)])
    # 3 of 10 pass; the share's standard error is below 0.007
    assert float((draws < 3).any(dim=1).float().mean()) == pytest.approx(
        unbiased_pass_at_k(10, 3, 4), abs=0.03
    )


def test_coqa_compares_words() -> None:
    assert reading.exact("The  cat!", "a cat") == 1
    assert reading.overlap_f1("the red cat", "red dog") == pytest.approx(0.5)
    doc = {
        "story": "S",
        "questions": {"input_text": ["Q1?"]},
        "answers": {"input_text": ["red cat"]},
        "additional_answers": {"0": {"input_text": ["Cat"]}, "1": {"input_text": ["RED CAT"]}},
    }
    assert reading.coqa_target(doc) == ["red cat", "Cat"]
    # against "Cat" with "red cat" left out, and the other way
    found = reading.coqa_results(doc, ["red cat\nQ: next"])
    assert found == {"em": 0.5, "f1": pytest.approx((2 / 3 + 1) / 2)}


def test_squad_asks_whether_the_answer_is_there(tmp_path: Any) -> None:
    doc = {"text": " Paris is in ", "value": " France "}
    assert reading.contains(doc, ["in FRANCE, I think"]) == {"contains": 1}
    assert reading.contains(doc, ["Spain"]) == {"contains": 0}


def test_articles_are_detokenised() -> None:
    page = {"page": ' = Title = \n \n The 1 @,@ 000 dogs , " he said " ( 2 @.@ 5 ) . It \'s . \n'}
    text = plain(page)
    assert '1,000 dogs, "he said" (2.5). It\'s.' in text


def test_answers_end_at_stop_strings_and_repeat_with_their_seed() -> None:
    tokenizer = tiny_tokenizer()
    model = LocalModel(tiny_chat_model(tokenizer), tokenizer, "tiny")
    options = {"until": [" ", "e"], "max_gen_toks": 20, "do_sample": True, "temperature": 1.5}
    requests = [Request("generate_until", ("The fox", options), repeat=n) for n in range(6)]

    def ask(wanted: set[int]) -> dict[int, str]:
        found: dict[int, str] = {}
        for group in model.plan(requests):
            found.update(model.answer(requests, group, wanted.intersection(group.indices)))
        return found

    answers = ask(set(range(6)))
    assert not any(" " in one or "e" in one for one in answers.values())
    assert len(set(answers.values())) > 1
    assert ask({3}) == {3: answers[3]}
