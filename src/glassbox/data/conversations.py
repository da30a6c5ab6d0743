"""Conversations: read from common formats, written as shards with a loss mask on assistant turns."""

from __future__ import annotations

import contextlib
import csv
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from glassbox.core.errors import UserError
from glassbox.data.python_source import PythonSource
from glassbox.data.shards import write_shard
from glassbox.data.text import LONE_SURROGATE, LONGEST_LINE, byte_lines, has_lone_surrogate

if TYPE_CHECKING:
    from glassbox.tokenizers import Tokenizer

ItemT = TypeVar("ItemT")
Message = dict[str, Any]
"""{"role": "system" | "user" | "assistant" | "tool", "content": text}; further keys pass through."""

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


class BadRow(ValueError):
    """Error in a row, raised before its file and line are known."""


class EmptyRow(BadRow):
    """Raised for a valid row with nothing to train on; such rows are skipped and counted."""


ROW_FORMATS = ("jsonl", "json", "csv", "parquet")


def read_rows(path: Path | str | PythonSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for every row of data: JSON lines, a JSON list, CSV or Parquet, compressed or
    not.

    `path` is whatever `find_data` takes (a file, a folder of such files, a named set, a set of the
    hub)
    or a user-defined source.
    CSV cells are text, except JSON lists and objects, true and false.
    Raises UserError that names the file and the line (or the number of the row).
    """
    for place, row in _placed_rows(path):
        if not isinstance(row, dict):
            raise UserError(f"{place}: a {type(row).__name__}; each row is an object with keys")
        if has_lone_surrogate(json.dumps(row, ensure_ascii=False, default=str)):
            raise UserError(f"{place}: a string {LONE_SURROGATE}")
        yield place, row


def _placed_rows(path: Path | str | PythonSource) -> Iterator[tuple[str, Any]]:
    from glassbox.data.sources import data_files, data_format, find_data

    if isinstance(path, PythonSource):
        yield from path.rows()
        return
    for file in data_files(find_data(str(path)), ROW_FORMATS):
        kind = data_format(file)
        if kind == "parquet":
            numbered: Iterable[tuple[str, Any]] = _parquet_rows(file)
        elif kind == "csv":
            numbered = _csv_rows(file)
        else:
            numbered = _json_rows(file)
        yield from numbered


def _json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    lines = byte_lines(file)
    first = b""
    for number, line in enumerate(lines, start=1):
        first = line.lstrip(b"\xef\xbb\xbf \t\r")
        if not first:
            continue
        if first.startswith(b"["):
            yield from _json_list(file, b"\n".join([b"\n" * (number - 1) + first, *lines]))
            return
        yield from _json_line(file, number, first)
        break
    else:
        return
    for later, line in enumerate(lines, start=number + 1):
        if line.strip():
            yield from _json_line(file, later, line)


def _json_line(file: Path, number: int, line: bytes) -> Iterator[tuple[str, Any]]:
    place = f"'{file}' line {number}"
    yield place, _parsed(place, line)


def _json_list(file: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    rows = _parsed(f"'{file}'", content, "line {line}")
    for number, row in enumerate(rows, start=1):
        yield f"'{file}' row {number}", row


def _parsed(place: str, content: bytes, inside: str = "") -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        where = f"{place} {inside.format(line=error.lineno)}".rstrip()
        raise UserError(f"{where}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{place}: not valid JSON: nested too deep") from None
    except ValueError:  # a number of thousands of digits
        raise UserError(f"{place}: not valid JSON: a number is too long") from None


def _csv_rows(file: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(1 << 28)
    delimiter = "\t" if ".tsv" in (suffix.lower() for suffix in file.suffixes) else ","
    lines = _decoded(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        for row in reader:
            place = f"'{file}' line {reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(f"{place}: {len(row)} cells, the header has {len(header)}")
            yield place, {key: _cell(value) for key, value in zip(header, row, strict=True)}
    except csv.Error as error:
        raise UserError(f"'{file}' line {reader.line_num}: {error}") from None


def _decoded(file: Path) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(byte_lines(file), start=1):
            yield line.decode("utf-8-sig" if number == 1 else "utf-8") + "\n"
    except UnicodeDecodeError as error:
        raise UserError(f"'{file}' line {number} is not UTF-8 ({error.reason})") from None


def _cell(value: str) -> Any:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value[:1] in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    from glassbox.data.curation.pieces import parquet_rows
    from glassbox.data.curation.shard_files import need_pyarrow

    need_pyarrow(str(file))
    for number, row in parquet_rows(file, None, LONGEST_LINE):
        place = f"'{file}' row {number}"
        if isinstance(row, str):
            raise UserError(f"{place}: {row}")
        if isinstance(row, float):
            raise UserError(f"{place} has {row:,.0f} bytes, at most {LONGEST_LINE:,}; leave it out")
        yield place, row


class Found(list[ItemT]):
    """Items read from a file, in order, and the number of rows with nothing to train on.

    skipped: their number; example: the place of the first and what is wrong with it.
    """

    def __init__(self, items: Iterable[ItemT] = (), skipped: int = 0, example: str = "") -> None:
        super().__init__(items)
        self.skipped = skipped
        self.example = example

    def describe(self, what: str) -> str:
        """A line about what was left out; empty where nothing was."""
        if not self.skipped:
            return ""
        return f"{self.skipped:,} {what} were left out; the first is {self.example}"


def read_items(
    path: Path | str | PythonSource, parse: Callable[[dict[str, Any]], ItemT], what: str
) -> Found[ItemT]:
    """parse(row) of every row of a file, those that raise EmptyRow left out and counted.

    Raises UserError naming file and line of another bad row, and where nothing is left.
    """
    found: Found[ItemT] = Found()
    for place, row in read_rows(path):
        item = located(place, lambda row: _item_or_empty(parse, row), row)
        if isinstance(item, EmptyRow):
            found.skipped += 1
            found.example = found.example or f"{place}: {item}"
        else:
            found.append(item)
    if not found:
        if found.skipped:
            raise UserError(f"'{path}' holds no {what} that teach anything; {found.example}")
        raise UserError(f"'{path}' holds no {what}; give it at least one row")
    return found


def _item_or_empty(
    parse: Callable[[dict[str, Any]], ItemT], row: dict[str, Any]
) -> ItemT | EmptyRow:
    try:
        return parse(row)
    except EmptyRow as error:
        return error


def read_chats(path: Path | str | PythonSource) -> Found[list[Message]]:
    """Read all conversations of a file; the format of each row is detected by its keys.

    - {"messages": [{"role", "content"}, ...]}
    - ShareGPT: {"conversations": [{"from", "value"}, ...], "system"?}
    - Alpaca: {"instruction", "input"?, "output", "system"?, "history"?: [[question, answer], ...]}

    Rows without text of the assistant are skipped and counted. Raises UserError naming file, line,
    key and remedy for rows of other formats.
    """
    return read_items(path, chat_of_row, "conversations")


def located(place: str, parse: Callable[[dict[str, Any]], Any], row: dict[str, Any]) -> Any:
    """parse(row), with the place put before the complaint of a bad row."""
    try:
        return parse(row)
    except BadRow as error:
        raise UserError(f"{place}: {error}") from None


def chat_of_row(row: Mapping[str, Any]) -> list[Message]:
    """The messages of a row. Raises BadRow.

    >>> chat_of_row({"instruction": "Add.", "input": "1 1", "output": "2"})
    [{'role': 'user', 'content': 'Add.\\n1 1'}, {'role': 'assistant', 'content': '2'}]
    """
    if row.get("tools"):
        raise BadRow("key 'tools' is not empty; put the tools into the system message")
    if "messages" in row:
        messages = parse_messages(row["messages"], "messages")
    elif "conversations" in row:
        messages = parse_messages(row["conversations"], "conversations")
        messages = system_message(row) + messages
    elif "instruction" in row and "output" in row:
        messages = instruction_prompt(row)
        messages.append({"role": "assistant", "content": _text(row, "output")})
    else:
        raise BadRow(
            f"keys {sorted(row)} are of no known form; use messages, conversations (ShareGPT), "
            "or instruction and output (Alpaca)"
        )
    if not any(m["role"] == "assistant" and m["content"] for m in messages):
        raise EmptyRow("the assistant says nothing in it; add an assistant message or drop the row")
    return messages


def instruction_prompt(row: Mapping[str, Any]) -> list[Message]:
    """The messages before the answer of an Alpaca row: system, history, instruction and input."""
    messages = system_message(row)
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRow("key 'history' is no list; give [[question, answer], ...]")
    for turn in history:
        if not (
            isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn)
        ):
            raise BadRow(f"key 'history' holds {turn!r}; give [[question, answer], ...]")
        messages.append({"role": "user", "content": turn[0]})
        messages.append({"role": "assistant", "content": turn[1]})
    parts = [_text(row, "instruction"), _text(row, "input") if row.get("input") else ""]
    messages.append({"role": "user", "content": "\n".join(part for part in parts if part)})
    return messages


def system_message(row: Mapping[str, Any]) -> list[Message]:
    """The message of the key `system`, if the row has one."""
    return [{"role": "system", "content": _text(row, "system")}] if row.get("system") else []


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise BadRow(f"key '{key}' = {value!r} is a {type(value).__name__}; give text")
    return value


def parse_messages(raw: Any, key: str) -> list[Message]:
    """Messages in either form: {"role", "content"} or ShareGPT's {"from", "value"}. Raises BadRow."""
    if not isinstance(raw, list) or not raw:
        raise BadRow(f"key '{key}' is no list of messages; give at least one")
    return [_message(one, f"{key}[{number}]") for number, one in enumerate(raw)]


def _message(raw: Any, key: str) -> Message:
    if not isinstance(raw, dict):
        raise BadRow(f"'{key}' = {raw!r}; give an object with role and content")
    if "role" in raw:
        role, content, name = raw["role"], raw.get("content"), "content"
        if role not in ROLES:
            raise BadRow(f"'{key}.role' = {role!r}; use {', '.join(ROLES)}")
        rest = {k: v for k, v in raw.items() if k not in ("role", "content") and v is not None}
    elif "from" in raw:
        role, content, name = SHAREGPT_ROLES.get(raw["from"]), raw.get("value"), "value"
        if role is None:
            raise BadRow(f"'{key}.from' = {raw['from']!r}; use {', '.join(SHAREGPT_ROLES)}")
        rest = {}
    else:
        raise BadRow(f"'{key}' has keys {sorted(raw)}; give role and content, or from and value")
    if not isinstance(content, str):
        raise BadRow(f"'{key}.{name}' = {content!r} is a {type(content).__name__}; give text")
    return {"role": role, "content": content, **rest}


@dataclass
class ChatReport:
    """Counts of conversations written, truncated and skipped.

    num_trained: number of ids that are trained on, of num_tokens.
    shortened: conversations whose first turns were removed to fit; dropped_turns: number of turns
        removed.
    skipped: conversations whose last turn does not fit; cut: those truncated instead.
    """

    num_chats: int = 0
    num_tokens: int = 0
    num_trained: int = 0
    shortened: int = 0
    dropped_turns: int = 0
    skipped: int = 0
    cut: int = 0


def write_chat_shard(
    path: Path | str,
    chats: Iterable[Sequence[Message]],
    tokenizer: Tokenizer,
    *,
    row_length: int,
    cut: bool = False,
) -> ChatReport:
    """Write conversations as a masked shard, in bounded memory: only the assistant's messages are
    trained on.

    Read it with `PackedRows(read_shard(path), row_length)` and train with `NextToken`: that is
    supervised fine-tuning. The first turns of a conversation of more than row_length + 1 ids are
    removed until it fits (a turn begins with a user message; the system message is kept); if its
    last turn is still too long, it is skipped, or with `cut` truncated. Raises UserError if no
    conversation is left.
    """
    report = ChatReport()
    masks: deque[list[int]] = deque()

    def documents() -> Iterator[list[int]]:
        for chat in chats:
            ids, mask, dropped = encode_fitting(chat, tokenizer, row_length + 1)
            if not ids and cut:
                ids, mask, dropped = encode_fitting(chat, tokenizer, row_length + 1, cut=True)
                report.cut += bool(ids)
            if not any(mask):
                report.skipped += 1
                continue
            report.num_chats += 1
            report.num_tokens += len(ids)
            report.num_trained += sum(mask)
            report.shortened += dropped > 0
            report.dropped_turns += dropped
            masks.append(mask)
            yield ids

    write_shard(
        path,
        documents(),
        vocab_size=tokenizer.vocab_size,
        fingerprint=tokenizer.fingerprint,
        masks=iter(masks.popleft, None),
    )
    if report.num_chats == 0:
        raise UserError(
            f"none of {report.skipped} conversations fits into {row_length + 1} tokens; "
            "raise data.row_length or give shorter ones"
        )
    return report


def encode_fitting(
    chat: Sequence[Message], tokenizer: Tokenizer, max_ids: int, *, cut: bool = False
) -> tuple[list[int], list[int], int]:
    """(ids, mask, dropped turns) of a conversation, with its first turns removed until it fits.

    Messages after the last answer are omitted, since they have no targets. If the last turn does
    not fit, returns ([], [], 0), or with `cut` the last turn truncated to max_ids, with at most
    half of them for the end of its prompt.
    """
    last = max((i for i, m in enumerate(chat) if m["role"] == "assistant"), default=-1)
    chat = chat[: last + 1]
    head = [m for m in chat[:1] if m["role"] == "system"]
    starts = [i for i, m in enumerate(chat) if m["role"] == "user"]
    cuts = [len(head), *(start for start in starts if start > len(head))]

    def attempt(cut: int) -> tuple[list[int], list[int]]:
        ids, mask = tokenizer.encode_chat([*head, *chat[cut:]])
        end = max((i + 1 for i, trained in enumerate(mask) if trained), default=0)
        return ids[:end], mask[:end]

    ids, mask = attempt(cuts[0])
    if len(ids) <= max_ids:
        return ids, mask, 0
    low, high = 1, len(cuts)  # the fewest dropped turns that make it fit lie in [low, high]
    best: tuple[list[int], list[int]] = ([], [])
    while low < high:
        middle = (low + high) // 2
        ids, mask = attempt(cuts[middle])
        if len(ids) <= max_ids:
            best, high = (ids, mask), middle
        else:
            low = middle + 1
    if best[0]:
        return (*best, low)
    if not cut:
        return [], [], 0
    ids, mask = attempt(cuts[-1])
    first = next((i for i, trained in enumerate(mask) if trained), 0)
    left_out = max(0, first - max_ids // 2)
    end = left_out + max_ids
    return ids[left_out:end], mask[left_out:end], len(cuts) - 1
