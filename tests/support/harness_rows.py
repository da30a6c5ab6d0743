"""Hand-made rows in the columns of the hub's sets, with what goes wrong in real ones: spaces, quotes, é, 中."""

from __future__ import annotations

import random
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]

NOUNS = [
    "fox",
    "ball",
    "tree",
    "girl",
    "sun",
    "naïve idea",
    "中文",
    "O'Neil",
    "river bank",
    "3.5 km",
]
VERBS = ["found", "asked", "told", "saw", "carried", "did not like", "re-read", "bought"]
ENDS = [
    "under the tree.",
    "at home",
    "in 1999.",
    "because it was red!",
    "— again",
    "twice, slowly.",
]


class Rows:
    """Rows of one set, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.generator = random.Random(seed)

    def phrase(self) -> str:
        """A few words."""
        pick = self.generator.choice
        return f"{pick(NOUNS)} {pick(VERBS)} the {pick(NOUNS)} {pick(ENDS)}"

    def option(self) -> str:
        """A short answer."""
        pick = self.generator.choice
        return f"{pick(['a', 'the', 'A', ''])} {pick(NOUNS)}".strip()

    def question(self) -> str:
        """A question, sometimes with stray spaces."""
        space = self.generator.choice(["", "", " ", "  "])
        return f"{space}What was it that the {self.phrase()}?{space}"

    def index(self, count: int) -> int:
        """A number below count."""
        return self.generator.randrange(count)

    def options(self, count: int) -> list[str]:
        """Different short answers."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[f"{self.option()} {self.index(99)}"] = None
        return list(found)


def arc(r: Rows) -> Row:
    count = r.generator.choice([3, 4, 4, 5])
    labels = r.generator.choice(["ABCDE", "12345"])[:count]
    return {
        "id": str(r.index(10**6)),
        "question": r.question(),
        "choices": {"text": r.options(count), "label": list(labels)},
        "answerKey": labels[r.index(count)],
    }


def openbookqa(r: Rows) -> Row:
    row = arc(r)
    return {
        "question_stem": row["question"],
        "choices": row["choices"],
        "answerKey": f" {row['answerKey']}",
    }


def piqa(r: Rows) -> Row:
    return {"goal": r.question(), "sol1": r.phrase(), "sol2": r.phrase(), "label": r.index(2)}


def boolq(r: Rows) -> Row:
    question = r.question().strip().rstrip("?")
    return {
        "passage": f"{r.phrase()} {r.phrase()}",
        "question": question,
        "idx": 1,
        "label": r.index(2),
    }


def copa(r: Rows) -> Row:
    return {
        "premise": f"The {r.phrase().rstrip('.')}.",
        "choice1": f"The {r.phrase()}",
        "choice2": f"Her {r.phrase()}",
        "question": r.generator.choice(["cause", "effect"]),
        "label": r.index(2),
    }


def commonsense_qa(r: Rows) -> Row:
    choices = {"label": list("ABCDE"), "text": r.options(5)}
    return {"question": r.question(), "choices": choices, "answerKey": "ABCDE"[r.index(5)]}


def winogrande(r: Rows) -> Row:
    first, second = r.options(2)
    sentence = f"{r.phrase()} So _ {r.generator.choice(ENDS)}"
    return {
        "sentence": sentence,
        "option1": first,
        "option2": second,
        "answer": str(r.index(2) + 1),
    }


def winograd(r: Rows) -> Row:
    before = f"The {r.generator.choice(NOUNS)}  met Eve. "
    pronoun = r.generator.choice(["he", "His", "it"])
    options = [f"The {r.generator.choice(NOUNS)}", "Eve"]
    return {
        "text": f"{before}{pronoun} {r.generator.choice(VERBS)} {r.generator.choice(ENDS)}",
        "pronoun": pronoun,
        "pronoun_loc": len(before.replace("  ", " ")),
        "options": options,
        "label": r.index(2),
    }


def lambada(r: Rows) -> Row:
    return {
        "text": f"{r.phrase()} {r.phrase()} and then the {r.generator.choice(['fox', 'ball', 'sun'])}"
    }


def hellaswag(r: Rows) -> Row:
    title = r.generator.choice(["", " [title] How to  do it [step] "])
    return {
        "activity_label": r.generator.choice(["Baking", "Removing ice from car"]),
        "ctx_a": f"{r.phrase()}{title}",
        "ctx_b": r.generator.choice(["", "the girl", "A Fox"]),
        "endings": [f"{r.phrase()} [substeps] {r.phrase()}" for _ in range(4)],
        "label": str(r.index(4)),
    }


def truthfulqa(r: Rows) -> Row:
    first, second = r.options(4), r.options(5)
    return {
        "question": r.question().strip(),
        "mc1_targets": {"choices": first, "labels": [1, 0, 0, 0]},
        "mc2_targets": {"choices": second, "labels": [1, 1, 0, 0, 0]},
    }


def mmlu(r: Rows) -> Row:
    return {
        "question": r.question(),
        "subject": "anatomy",
        "choices": r.options(4),
        "answer": r.index(4),
    }


def gsm8k(r: Rows) -> Row:
    a, b = r.index(50), r.index(50)
    answer = f"They have {a}+{b}=<<{a}+{b}={a + b}>>{a + b}.\n#### {a + b:,}"
    return {"question": f"{a} and {b} of the {r.generator.choice(NOUNS)}?", "answer": answer}


def humaneval(r: Rows) -> Row:
    name = f"add_{r.index(1000)}"
    return {
        "task_id": f"HumanEval/{r.index(100)}",
        "prompt": f'def {name}(a: int) -> int:\n    """Add one to {r.generator.choice(NOUNS)}."""\n',
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        "entry_point": name,
    }


def wikitext(r: Rows) -> Row:
    words = f' = {r.option()} = \n \n The {r.phrase()} , 1 @,@ 000 ( about 2 @.@ 5 ) " {r.option()} " \n'
    return {"page": words + f" It 's {r.phrase()} ; and the girls ' {r.option()} . \n"}


def chinese(r: Rows, question: str, answer: str) -> Row:
    options = dict(zip("ABCD", r.options(4), strict=True))
    return {
        question: f" 下列关于{r.generator.choice(NOUNS)}的说法？",
        **options,
        answer: "ABCD"[r.index(4)],
    }


def ceval(r: Rows) -> Row:
    return chinese(r, "question", "answer")


def cmmlu(r: Rows) -> Row:
    return chinese(r, "Question", "Answer")


def coqa(r: Rows) -> Row:
    turns = r.index(3) + 1
    answers = {"input_text": [r.option() for _ in range(turns)]}
    others = {str(n): {"input_text": [r.option() for _ in range(turns)]} for n in range(3)}
    return {
        "story": f"{r.phrase()} {r.phrase()}",
        "questions": {"input_text": [r.question().strip() for _ in range(turns)]},
        "answers": answers,
        "additional_answers": others,
    }


def make(row: Any, splits: dict[str, int], seed: int = 0) -> Splits:
    """So many rows of each split."""
    return {
        name: [row(r) for _ in range(count)]
        for n, (name, count) in enumerate(splits.items())
        for r in [Rows(seed + n)]
    }


TWENTY = 20
TASKS: dict[str, tuple[Any, dict[str, int], str]] = {
    # task: a row, splits, the harness's file
    "arc_easy": (arc, {"test": TWENTY, "train": 12, "validation": 9}, "arc/arc_easy.yaml"),
    "arc_challenge": (arc, {"test": TWENTY, "train": 12, "validation": 9}, "arc/arc_challenge.yaml"),
    "openbookqa": (openbookqa, {"test": TWENTY, "train": 9, "validation": 9}, "openbookqa/openbookqa.yaml"),
    "piqa": (piqa, {"validation": TWENTY, "train": 9}, "piqa/piqa.yaml"),
    "boolq": (boolq, {"validation": TWENTY, "train": 9}, "super_glue/boolq/default.yaml"),
    "copa": (copa, {"validation": TWENTY, "train": 9}, "super_glue/copa/default.yaml"),
    "commonsense_qa": (commonsense_qa, {"validation": TWENTY, "train": 9}, "commonsense_qa/default.yaml"),
    "winogrande": (winogrande, {"validation": TWENTY, "train": 9}, "winogrande/default.yaml"),
    "wsc273": (winograd, {"test": TWENTY}, "wsc273/default.yaml"),
    "lambada_openai": (lambada, {"test": TWENTY}, "lambada/lambada_openai.yaml"),
    "hellaswag": (hellaswag, {"validation": TWENTY, "train": 9}, "hellaswag/hellaswag.yaml"),
    "truthfulqa_mc1": (truthfulqa, {"validation": TWENTY}, "truthfulqa/truthfulqa_mc1.yaml"),
    "truthfulqa_mc2": (truthfulqa, {"validation": TWENTY}, "truthfulqa/truthfulqa_mc2.yaml"),
    "mmlu_anatomy": (mmlu, {"test": TWENTY, "dev": 5}, "mmlu/default/mmlu_anatomy.yaml"),
    "mmlu_anatomy_continuation": (mmlu, {"test": TWENTY, "dev": 5}, "mmlu/continuation/mmlu_anatomy.yaml"),
    "mmlu_anatomy_generative": (mmlu, {"test": TWENTY, "dev": 5}, "mmlu/generative/mmlu_anatomy.yaml"),
    "gsm8k": (gsm8k, {"test": TWENTY, "train": 12}, "gsm8k/gsm8k.yaml"),
    "wikitext": (wikitext, {"test": TWENTY, "train": 1, "validation": 1}, "wikitext/wikitext.yaml"),
    "ceval-valid_law": (ceval, {"val": TWENTY, "dev": 5}, "ceval/ceval-valid_law.yaml"),
    "cmmlu_agronomy": (cmmlu, {"test": TWENTY, "dev": 5}, "cmmlu/cmmlu_agronomy.yaml"),
    "coqa": (coqa, {"validation": TWENTY, "train": 9}, "coqa/default.yaml"),
    "humaneval": (humaneval, {"test": TWENTY}, "humaneval/humaneval.yaml"),
}  # fmt: skip
