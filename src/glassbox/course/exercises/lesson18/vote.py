"""Exercise 18.2: a vote over the answers of several texts."""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.tuning.reasoning import majority


def vote(texts: list[str]) -> tuple[float | None, float]:
    """The most frequent answer, and its share of all texts.

    A text's answer is the number behind its last "Answer:" ("Answer: 42", "Answer: -3.5", "Answer: 42.0"; between them
    spaces at most); 42 and 42.0 are the same answer. A text without one has no vote, but counts in the share. Of
    equally frequent answers the one that was given first wins. Without any vote the result is (None, 0.0).
    """
    answers = []
    for text in texts:
        found = re.findall(r"Answer: *(-?\d+(?:\.\d+)?)", text)
        if found:
            answers.append(float(found[-1]))
    if not answers:
        return None, 0.0
    counts = Counter(answers)
    best = max(counts, key=lambda answer: counts[answer])
    return best, counts[best] / len(texts)


def oracle(texts: list[str]) -> tuple[float | None, float]:
    """Split at the word, then ours for the count."""
    answers: list[str | None] = []
    for text in texts:
        ends = text.split("Answer:")[1:]
        numbers = [re.match(r" *(-?[0-9]+(\.[0-9]+)?)", end) for end in ends]
        known = [one[1] for one in numbers if one]
        answers.append(str(Decimal(known[-1]).normalize()) if known else None)
    best, share = majority(answers)
    return (None if best is None else float(best)), share


def cases() -> list[Case]:
    """One text, none with an answer, several answers in one text, the same in other words, ties, and silent texts."""
    return [
        Case((["2 + 2 is 4. Answer: 4"],)),
        Case((["I do not know.", "Answer: none"],)),
        Case((["Answer: 7", "Answer: 8", "Answer: 8"],)),
        Case((["Answer: 3. Wait, no. Answer: 5", "Answer: 5", "Answer: 3"],)),
        Case((["Answer: 42.0", "Answer: 41", "Answer: 42", "Answer: 41.5"],)),
        Case((["so 9", "Answer: 2", "thinking about 9", "no idea: 9", "Answer: 2.0"],)),
        Case((["Answer: 6", "Answer: -1", "Answer: -1", "Answer: 6", "Answer: 1"],)),
        Case((["Answer: 10, as 5 + 5", "Answer: 10 (not 5)", "Answer: 5", "", "5"],)),
    ]


EXERCISE = Exercise(
    number="18.2",
    title=Both("A vote over samples", "对多个样本投票"),
    statement=Both(
        'Self-consistency: take the answer of each sampled text, which stands behind its last "Answer:", and return the most frequent one with its share of '
        "all texts.",
        "自洽性：取出每段采样文本的答案（在最后一个“Answer:”之后），返回出现最多的答案，以及它占全部文本的比例。",
    ),
    solution=(vote,),
    oracle={"vote": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "first_answer",
            Both(
                'the first "Answer:" of a text is taken; a model that corrects itself writes the right one last',
                "取了文本里第一个“Answer:”；模型会自我纠正，对的在最后",
            ),
            edits=(("found[-1]", "found[0]"),),
        ),
        Mistake(
            "last_number",
            Both(
                'the last number of the text is taken, also where it does not stand behind "Answer:"',
                "取了文本的最后一个数，哪怕它不在“Answer:”之后",
            ),
            edits=((r"Answer: *(-?\d+(?:\.\d+)?)", r"(-?\d+(?:\.\d+)?)"),),
        ),
        Mistake(
            "share_of_votes",
            Both(
                "the share is of the texts that have an answer; silent ones make the vote less sure and count too",
                "比例只除以有答案的文本数；没有答案的文本说明把握更小，也应算在内",
            ),
            edits=(("/ len(texts)", "/ len(answers)"),),
        ),
        Mistake(
            "written_forms",
            Both(
                "42 and 42.0 are counted as different answers",
                "把 42 和 42.0 当成了不同的答案",
            ),
            edits=(
                ("answers.append(float(found[-1]))", "answers.append(found[-1])"),
                ("return best, counts[best]", "return float(best), counts[best]"),
            ),
        ),
        Mistake(
            "silence_votes",
            Both(
                "texts without an answer vote as well, and no answer can win",
                "没有答案的文本也投了票，“没有答案”可能胜出",
            ),
            edits=(
                (
                    "        if found:\n            answers.append(float(found[-1]))\n",
                    "        answers.append(float(found[-1]) if found else None)\n",
                ),
            ),
        ),
        Mistake(
            "ties_last",
            Both(
                "of equally frequent answers the one that came last wins; the first was asked for",
                "票数相同时取了后出现的；应取先出现的",
            ),
            edits=(("max(counts, key", "max(reversed(list(counts)), key"),),
        ),
        Mistake(
            "averaged",
            Both("the answers are averaged; a vote counts them", "对答案取了平均；投票是计数"),
            edits=(("return best, counts[best]", "return sum(answers) / len(answers), counts[best]"),),
        ),
        Mistake(
            "sign_lost",
            Both("the sign of negative answers is lost", "负数的符号丢了"),
            edits=((r"Answer: *(-?\d", r"Answer: *-?(\d"),),
        ),
    ),
    hints=(
        Both('re.findall gives all places; which one counts?', "re.findall 会给出所有位置；哪一个才算数？"),
        Both("Turn answers into numbers before counting.", "先把答案变成数，再计数。"),
        Both("A Counter keeps the order in which answers came; max takes the first of equals.", "Counter 会保留答案出现的先后；max 在相等时取第一个。"),
    ),
    imports="import re\nfrom collections import Counter\n",
)  # fmt: skip
