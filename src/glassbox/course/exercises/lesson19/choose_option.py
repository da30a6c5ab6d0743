"""Exercise 19.2: the option that a model chooses, under three rules."""

from __future__ import annotations

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def choose(options: list[str], log_probs: list[list[float]], alone: list[float], rule: str) -> int:
    """The place of the chosen option.

    log_probs: of each option ln p of its tokens, given the question. alone: of each option ln p of the whole option without the question.
    rule: "raw" sums the tokens; "bytes" divides that sum by the option's UTF-8 bytes; "unconditional" takes `alone` off the sum. The
    highest wins, the first of equals.
    """
    scores = []
    for option, tokens, without in zip(options, log_probs, alone, strict=True):
        total = sum(tokens)
        if rule == "bytes":
            total /= len(option.encode("utf-8"))
        elif rule == "unconditional":
            total -= without
        scores.append(total)
    return scores.index(max(scores))


def oracle(options: list[str], log_probs: list[list[float]], alone: list[float], rule: str) -> int:
    """Comparing pair by pair, without a division."""
    totals = [sum(tokens) for tokens in log_probs]
    best = 0
    for place in range(1, len(options)):
        if rule == "raw":
            better = totals[place] > totals[best]
        elif rule == "bytes":
            ours, theirs = (len(options[one].encode()) for one in (place, best))
            better = totals[place] * theirs > totals[best] * ours
        else:
            better = totals[place] - alone[place] > totals[best] - alone[best]
        if better:
            best = place
    return best


def cases() -> list[Case]:
    """Options of unlike length, of several tokens, of Chinese; each rule; equals."""
    options, tokens = ["yes", "certainly not", "no"], [[-2.0], [-1.0, -1.5, -1.2], [-3.0]]
    alone = [-3.0, -9.0, -2.5]
    found = [Case((options, tokens, alone, rule)) for rule in ("raw", "bytes", "unconditional")]
    found += [Case((["a", "b"], [[-1.0], [-1.0]], [0.0, 0.0], "raw"))]
    found += [
        Case((["北京", "abc"], [[-3.0], [-2.0]], [-1.0, -2.0], rule))
        for rule in ("bytes", "raw", "unconditional")
    ]
    found += [
        Case(
            (
                ["xx", "yyyy", "z"],
                [[-1.0, -1.0], [-1.0, -1.0, -1.0], [-1.4]],
                [-2.5, -1.0, -1.0],
                rule,
            )
        )
        for rule in ("raw", "bytes", "unconditional")
    ]
    found += [
        Case((["one two", "three"], [[-0.6, -0.5, -0.4], [-1.0, -0.4]], [-4.0, -4.2], rule))
        for rule in ("raw", "bytes", "unconditional")
    ]
    return found


EXERCISE = Exercise(
    number="19.2",
    title=Both("Choose an option", "选出一个选项"),
    statement=Both(
        "Choose the option of a multiple-choice question by one of three rules: the sum of log-probabilities, that sum by bytes, or that sum without what the option is worth alone.",
        "按三种规则之一选出选择题的选项：对数概率之和、除以字节数，或者减去选项单独的值。",
    ),
    solution=(choose,),
    oracle={"choose": oracle},
    cases=cases,
    imports="",
    mistakes=(
        Mistake(
            "lowest",
            Both("the lowest score wins", "选了分数最低的"),
            edits=(("scores.index(max(scores))", "scores.index(min(scores))"),),
        ),
        Mistake(
            "last_token",
            Both("only the last token of an option is scored", "只计了选项的最后一个词元"),
            edits=(("total = sum(tokens)", "total = tokens[-1]"),),
        ),
        Mistake(
            "mean_of_tokens",
            Both(
                "the mean over tokens stands where the sum should: that is yet another rule",
                "该求和的地方取了词元平均：那是另一种规则",
            ),
            edits=(("total = sum(tokens)", "total = sum(tokens) / len(tokens)"),),
        ),
        Mistake(
            "characters",
            Both("divided by characters, not bytes", "除以的是字符数而不是字节数"),
            edits=(('len(option.encode("utf-8"))', "len(option)"),),
        ),
        Mistake(
            "multiplied_by_bytes",
            Both(
                "multiplied by the length: longer options are punished twice",
                "乘以了长度：长选项被罚了两次",
            ),
            edits=(("total /= len", "total *= len"),),
        ),
        Mistake(
            "alone_added",
            Both("`alone` is added; it has to be taken off", "`alone` 应当减去，却加上了"),
            edits=(("total -= without", "total += without"),),
        ),
        Mistake(
            "rule_ignored",
            Both("every rule gives the raw choice", "不论哪种规则，结果都是按原始分数选的"),
            edits=(
                ('if rule == "bytes"', 'if rule == ""'),
                ('elif rule == "unconditional"', 'elif rule == "-"'),
            ),
        ),
    ),
    hints=(
        Both(
            "Log-probabilities are negative: which of -2 and -5 is more probable?",
            "对数概率是负数：-2 与 -5 哪个更可能？",
        ),
        Both(
            "An option's log-probability is the sum over its tokens.",
            "选项的对数概率是各词元之和。",
        ),
        Both(
            "Make a list of scores by the rule, then take the place of its maximum.",
            "按规则算出分数列表，再取最大值的位置。",
        ),
    ),
)
