"""Exercise 22.1: server-sent events out of bytes that are cut anywhere."""

from __future__ import annotations

import itertools

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def events(chunks: list[bytes]) -> list[str]:
    """The data of each whole event of a stream that arrives in these chunks.

    An event ends with an empty line ("\\n\\n"). Its lines "data: ..." are its data, joined by "\\n"; other lines, such
    as those that begin with ":", do not count, and an event without data is none. Chunks may be cut anywhere, in the middle of a
    character too; what is not ended is not an event.
    """
    text = b"".join(chunks)
    found = []
    for part in text.split(b"\n\n")[:-1]:
        lines = part.decode("utf-8").split("\n")
        data = [line[6:] for line in lines if line.startswith("data: ")]
        if data:
            found.append("\n".join(data))
    return found


def oracle(chunks: list[bytes]) -> list[str]:
    """Byte by byte."""
    found: list[str] = []
    line = b""
    data: list[str] = []
    for byte in b"".join(chunks):
        if byte != 10:
            line += bytes([byte])
            continue
        if line == b"":
            if data:
                found.append("\n".join(data))
            data = []
        elif line.startswith(b"data: "):
            data.append(line[6:].decode("utf-8"))
        line = b""
    return found


def _cut(text: str, *places: int) -> list[bytes]:
    raw = text.encode("utf-8")
    borders = [0, *places, len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(borders)]


def cases() -> list[Case]:
    """Whole events; cuts inside a line, between the two line ends, and inside a character; comments; an end that is missing."""
    return [
        Case(([b"data: a\n\n"],)),
        Case(([b"data: a\n\ndata: b\n\n"],)),
        Case((_cut("data: hello\n\n", 3),)),
        Case((_cut("data: hello\n\ndata: you\n\n", 12, 20),)),
        Case((_cut("data: 你好\n\n", 7),)),
        Case((_cut("data: one\n\ndata: tw", 4),)),
        Case(([b": ping\n\n", b"data: x\n\n"],)),
        Case((_cut("data: two\ndata: lines\n\n", 10),)),
        Case((_cut("event: news\ndata: y\nid: 3\n\n", 5, 21),)),
        Case(([b"data:  spaces \n\n", b"data: [DONE]\n\n"],)),
        Case(([],)),
    ]


EXERCISE = Exercise(
    number="22.1",
    title=Both("Events out of bytes", "从字节中读出事件"),
    statement=Both(
        "A stream of server-sent events arrives in chunks that are cut anywhere. Return the data of every whole event.",
        "一串服务器推送事件分成若干块到达，切口可能在任何地方。返回每个完整事件的数据。",
    ),
    solution=(events,),
    oracle={"events": oracle},
    cases=cases,
    imports="",
    mistakes=(
        Mistake(
            "chunk_is_an_event",
            Both(
                "every chunk was read by itself; an event may lie in two chunks, and a chunk may hold two events",
                "把每一块单独解析了；一个事件可能跨两块，一块也可能有两个事件",
            ),
            edits=(
                (
                    '    text = b"".join(chunks)\n    found = []\n    for part in text.split(b"\\n\\n")[:-1]:\n        lines = part.decode("utf-8")',
                    '    found = []\n    for part in [p for c in chunks for p in c.split(b"\\n\\n") if p]:\n        lines = part.decode("utf-8", "replace")',
                ),
            ),
        ),
        Mistake(
            "half_characters",
            Both(
                "each chunk was decoded by itself: a character that is cut in two becomes replacement characters; join bytes first",
                "每块各自解码：被切成两半的字符变成了替换字符；应先拼接字节",
            ),
            edits=(
                (
                    '    text = b"".join(chunks)\n',
                    '    text = "".join(c.decode("utf-8", "replace") for c in chunks).encode()\n',
                ),
            ),
        ),
        Mistake(
            "unfinished_event",
            Both(
                "what comes after the last empty line counts as an event, though its end has not come yet",
                "最后一个空行之后的内容也算成了事件，可它还没有结束",
            ),
            edits=(("[:-1]:", ":"),),
        ),
        Mistake(
            "other_lines_too",
            Both(
                'comments and other fields are returned as data; only lines that begin with "data: " count',
                '把注释和其他字段也当成了数据；只有以 "data: " 开头的行才算',
            ),
            edits=(
                (
                    '[line[6:] for line in lines if line.startswith("data: ")]',
                    '[line.removeprefix("data: ") for line in lines]',
                ),
            ),
        ),
        Mistake(
            "first_line_only",
            Both(
                "an event with several data lines lost all but one; they are joined by a line end",
                "有多行 data 的事件只留下了一行；各行应以换行连接",
            ),
            edits=(('"\\n".join(data)', "data[0]"),),
        ),
        Mistake(
            "stripped",
            Both(
                "spaces of the text are stripped; streamed pieces often begin or end with one, and words then run together",
                "去掉了文本两端的空格；流式片段经常以空格开头或结尾，去掉后单词会连在一起",
            ),
            edits=(("line[6:] for", "line[6:].strip() for"),),
        ),
        Mistake(
            "joined_without_line_ends",
            Both(
                "several data lines are joined without the line end between them",
                "多行 data 之间漏了换行",
            ),
            edits=(('"\\n".join(data)', '"".join(data)'),),
        ),
    ),
    hints=(
        Both(
            "Which bytes end an event, and can they be cut apart by a chunk's border?",
            "哪两个字节结束一个事件？块的边界会不会正好切在它们中间？",
        ),
        Both(
            "Join all bytes before you decode anything.",
            "先拼接全部字节，再解码。",
        ),
        Both(
            "Split at the empty lines, and leave out the last part: it has not ended.",
            "按空行切分，去掉最后一部分：它还没有结束。",
        ),
    ),
)
