"""Exercise 22.2: text that is streamed must not show the beginning of a stop string."""

from __future__ import annotations

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def streamed(pieces: list[str], stop: str) -> list[str]:
    """What a reader is sent after each piece of generated text; the stop string and what follows are never sent.

    After each piece everything is sent that cannot belong to the stop string any more: all of the text so far but its
    longest end that is a beginning of `stop`. When the stop string is there, only what stands before it is sent, and nothing
    after. At the end, one more entry: what was held back, or "" after a stop. Returns len(pieces) + 1 texts.
    """
    held, sent, stopped = "", [], False
    for piece in pieces:
        if stopped:
            sent.append("")
            continue
        held += piece
        if stop in held:
            sent.append(held[: held.index(stop)])
            held, stopped = "", True
            continue
        keep = 0
        for size in range(1, min(len(stop), len(held)) + 1):
            if held.endswith(stop[:size]):
                keep = size
        sent.append(held[: len(held) - keep])
        held = held[len(held) - keep :]
    return [*sent, held]


def oracle(pieces: list[str], stop: str) -> list[str]:
    """From the whole text: how much of it is certain after each piece."""
    found, shown, text = [], 0, ""
    end = None
    for piece in pieces:
        text += piece
        place = text.find(stop)
        if place >= 0 and end is None:
            end = place
        if end is not None:
            certain = end
        else:
            ends = [n for n in range(len(stop)) if text.endswith(stop[:n])]
            certain = len(text) - max(ends)
        found.append(text[shown:certain])
        shown = max(shown, certain)
    found.append("" if end is not None else text[shown:])
    return found


def cases() -> list[Case]:
    """No stop string, one in a piece, one over pieces, beginnings that come to nothing, and stops that overlap themselves."""
    return [
        Case((["one", " two"], "END")),
        Case((["one END two", " three"], "END")),
        Case((["one E", "ND two"], "END")),
        Case((["a END b END c"], "END")),
        Case((["one E", "NTER"], "END")),
        Case((["a", "E", "N"], "END")),
        Case((["x\n", "\n", "\n", "y"], "\n\n\n\n")),
        Case((["aa", "b", "aab", "c"], "aab")),
        Case((["abab", "abac", "d"], "abac")),
        Case((["EEN", "EN", "D", "tail"], "END")),
        Case(([], "END")),
    ]


EXERCISE = Exercise(
    number="22.2",
    title=Both("Hold back what may be a stop string", "扣住可能是停止串的文字"),
    statement=Both(
        "Text is generated piece by piece and streamed. Send as much as you can after each piece, but never any of the stop string: hold back an end "
        "that might be its beginning. The last entry is what is left when generation ends.",
        "文本逐片生成、逐片发送。每来一片就尽可能多发，但停止串一个字也不能发出去：可能是它开头的结尾要先扣住。最后一项是生成结束时剩下的部分。",
    ),
    solution=(streamed,),
    oracle={"streamed": oracle},
    cases=cases,
    imports="",
    mistakes=(
        Mistake(
            "nothing_held_back",
            Both(
                "the beginning of a stop string was sent before it was clear: nothing is held back",
                "停止串的开头还没弄清就发出去了：没有扣住任何文字",
            ),
            edits=(("                keep = size\n", "                keep = 0\n"),),
        ),
        Mistake(
            "shortest_beginning",
            Both(
                "the shortest beginning is held back; the longest must be, or the rest of it is sent",
                "扣住的是最短的匹配；应当扣住最长的，否则其余部分会被发出去",
            ),
            edits=(("                keep = size\n", "                keep = keep or size\n"),),
        ),
        Mistake(
            "fixed_length_held",
            Both(
                "always as many characters as a stop string has less one are held back, whether they fit or not: readers wait for nothing",
                "不论是否匹配，总是扣住停止串长度减一个字符：读者白等",
            ),
            edits=(
                (
                    "            if held.endswith(stop[:size]):\n",
                    "            if size < len(stop):\n",
                ),
            ),
        ),
        Mistake(
            "goes_on_after_stop",
            Both(
                "text after the stop string is sent",
                "停止串之后的文字也发出去了",
            ),
            edits=(('held, stopped = "", True', "held = held[held.index(stop) + len(stop) :]"),),
        ),
        Mistake(
            "stop_in_one_piece_only",
            Both(
                "the stop string is looked for in each piece alone; it often comes in two",
                "只在单独一片里找停止串；它经常分成两片到来",
            ),
            edits=(("if stop in held:", "if stop in piece:"),),
        ),
        Mistake(
            "stop_sent_too",
            Both("the stop string itself is sent", "停止串本身也发出去了"),
            edits=(("held[: held.index(stop)])", "held[: held.index(stop) + len(stop)])"),),
        ),
        Mistake(
            "rest_lost",
            Both(
                "what was held back at the end is lost: it turned out to be no stop string, so it belongs to the text",
                "结束时扣住的部分丢了：它最终不是停止串，应属于正文",
            ),
            edits=(("return [*sent, held]", 'return [*sent, ""]'),),
        ),
        Mistake(
            "last_stop",
            Both(
                "the text is cut at the last stop string; the first one ends it",
                "在最后一个停止串处截断；应在第一个处结束",
            ),
            edits=(("held[: held.index(stop)])", "held[: held.rindex(stop)])"),),
        ),
    ),
    hints=(
        Both(
            'The text so far ends in "... E" and the stop string is END. What may you send?',
            "目前的文本以 “... E” 结尾，停止串是 END。可以发什么？",
        ),
        Both(
            "For every length n, ask whether the held text ends with stop[:n]; keep the largest.",
            "对每个长度 n，看扣住的文本是否以 stop[:n] 结尾；保留最大的那个。",
        ),
        Both(
            "Keep one string `held`: add the piece, look for the stop, send all but the longest match, keep the match.",
            "用一个字符串 `held`：加上新片段，找停止串，发出最长匹配之外的部分，留下匹配部分。",
        ),
    ),
)
