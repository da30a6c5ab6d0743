"""Calls from a process that holds tests to a process that holds an answer, as plain data over pipes.

Standard library alone: `code_tests.py` sends the text of this file into two sandboxes. In one,
`serve` runs the answer's code and does what it is asked; in the other, `run_tests` runs the tests,
in which the answer's names stand for calls over the pipe. The side of the tests trusts nothing that
comes: it builds numbers, text and containers of Python's own types from it, and no other objects.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

MAX_MESSAGE = 16 << 20
MAX_DEPTH = 100
MAX_PLAIN_INT = 1 << 53


class Channel:
    """Messages: four bytes of length, then JSON."""

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target

    def send(self, message: Any) -> None:
        data = json.dumps(message).encode()
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"a value of over {MAX_MESSAGE >> 20} MiB cannot be handed over")
        data = len(data).to_bytes(4, "little") + data
        while data:
            data = data[os.write(self.target, data) :]

    def receive(self) -> Any:
        size = int.from_bytes(self._read(4), "little")
        if size > MAX_MESSAGE:
            raise ValueError(f"the other side sends over {MAX_MESSAGE >> 20} MiB")
        return json.loads(self._read(size))

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self.source, min(size, 1 << 20))
            if not part:
                raise EOFError("the answer's process has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


# ---- plain data ---------------------------------------------------------------------------------

Other = Callable[[Any], Any]
"""What to do with a value that is no plain data (encoding) or stands for one (decoding)."""


def encode(value: Any, other: Other, depth: int = 0) -> Any:
    """A value as JSON. One of a subclass of a plain type becomes one of that type."""
    if depth > MAX_DEPTH:
        raise ValueError(f"a value nested over {MAX_DEPTH} deep cannot be handed over")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if abs(number) < MAX_PLAIN_INT else ["i", hex(number)]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return ["c", value.real, value.imag]
    if isinstance(value, (bytes, bytearray)):
        return ["b" if isinstance(value, bytes) else "a", value.hex()]
    if isinstance(value, range):
        return ["r", *(encode(n, other) for n in (value.start, value.stop, value.step))]
    if isinstance(value, Decimal):
        return ["D", str(value)]
    if isinstance(value, Fraction):
        return ["F", hex(value.numerator), hex(value.denominator)]
    for tag, kind in _CONTAINERS:
        if isinstance(value, kind):
            return [tag, *(encode(item, other, depth + 1) for item in kind.__iter__(value))]
    if isinstance(value, dict):
        pairs = dict.items(value)
        return ["d", *([encode(part, other, depth + 1) for part in pair] for pair in pairs)]
    return other(value)


def decode(data: Any, other: Other) -> Any:
    """The value of what `encode` made. Raises whatever wrong data leads to."""
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    tag, *items = data
    if tag in ("l", "t", "s", "f"):
        return dict(_CONTAINERS)[tag](decode(item, other) for item in items)
    if tag == "d":
        return {decode(key, other): decode(value, other) for key, value in items}
    if tag == "i":
        return int(items[0], 16)
    if tag == "c":
        return complex(float(items[0]), float(items[1]))
    if tag == "b":
        return bytes.fromhex(items[0])
    if tag == "a":
        return bytearray.fromhex(items[0])
    if tag == "r":
        return range(*(decode(item, other) for item in items))
    if tag == "D":
        return Decimal(items[0])
    if tag == "F":
        return Fraction(int(items[0], 16), int(items[1], 16))
    return other(data)


_CONTAINERS: tuple[tuple[str, Any], ...] = (
    ("l", list),
    ("t", tuple),
    ("s", set),
    ("f", frozenset),
)


# ---- the answer's side --------------------------------------------------------------------------


def serve(code: str, source: int, target: int) -> None:
    """Run an answer's code as a module, then do what the tests ask until they end."""
    channel = Channel(source, target)
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    objects: list[Any] = []
    numbers: dict[int, int] = {}

    def keep(value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return ["m", value.__name__]
        number = numbers.setdefault(id(value), len(objects))
        if number == len(objects):
            objects.append(value)
        if isinstance(value, type) and issubclass(value, Exception):
            return ["x", number, value.__name__, _bases(value)]
        return ["o", number, type(value).__name__]

    def find(data: Any) -> Any:
        return objects[data[1]]

    try:
        exec(compile(code, "<answer>", "exec", dont_inherit=True), module.__dict__)
        channel.send({"ok": True})
    except BaseException as error:
        traceback.print_exc()
        channel.send(_describe(error, keep))
        return
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        try:
            channel.send(_do(request, module, keep, find))
        except BaseException as error:
            channel.send(_describe(error, keep))


def _do(request: Any, module: types.ModuleType, keep: Other, find: Other) -> Any:
    what, *rest = request
    if what == "names":
        found = {name: vars(module)[name] for name in rest[0] if name in vars(module)}
        return {"ok": {name: encode(value, keep) for name, value in found.items()}}
    one = find(["o", rest[0]])
    args = [decode(item, find) for item in rest[1:]]
    if what == "call":
        result = one(*args[0], **args[1])
        if result is not None:
            return {"ok": encode(result, keep)}
        # as Python does it: a function that works in place returns None
        return {"ok": None, "changed": [encode(args[0], keep), encode(args[1], keep)]}
    if what == "get":
        return {"ok": encode(getattr(one, args[0]), keep)}
    if what == "set":
        setattr(one, args[0], args[1])
        return {"ok": None}
    if what == "item":
        return {"ok": encode(one[args[0]], keep)}
    if what == "put":
        one[args[0]] = args[1]
        return {"ok": None}
    if what == "len":
        return {"ok": len(one)}
    if what == "iter":
        return {"ok": keep(iter(one))}
    if what == "next":
        try:
            return {"ok": encode(next(one), keep)}
        except StopIteration:
            return {"stop": True}
    return {"ok": str(one) if what == "str" else repr(one)}


def _bases(kind: type) -> list[str]:
    return [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"]


def _describe(error: BaseException, keep: Other) -> Any:
    try:
        message = str(error)[:10_000]
    except BaseException:
        message = ""
    own = type(error).__module__ != "builtins" and isinstance(error, Exception)
    return {
        "error": [type(error).__name__, _bases(type(error)), message],
        "kind": keep(type(error)) if own else None,
    }


# ---- the tests' side ----------------------------------------------------------------------------


def run_tests(prompt: str, tests: str, entry: str | None, source: int, target: int) -> None:
    """Run tests whose undefined names, and the entry point's, are the answer's. Raises as they do.

    What the prompt defines (imports, helpers) is taken from the prompt, so that an answer cannot
    replace what checks it; so are Python's own functions, but for the entry point.
    """
    answer = Answer(Channel(source, target))
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    exec(compile(_complete(prompt), "<prompt>", "exec", dont_inherit=True), names)
    answer.wait()
    asked = _names_in(entry or "")
    wanted = asked | (_names_in(tests) - set(names) - set(dir(builtins)))
    names.update(answer.names(sorted(wanted)))
    exec(compile(tests, "<tests>", "exec", dont_inherit=True), names)
    if entry is not None and isinstance(names.get("check"), types.FunctionType):
        names["check"](eval(entry, names))


def _names_in(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def _complete(prompt: str) -> str:
    """A prompt that may end in the midst of a function, with that function ended or left out."""
    lines = prompt.splitlines(keepends=True)
    starts = [n for n, line in enumerate(lines) if line[:1].strip()]
    for text in (prompt, f"{prompt}\n    pass\n", *("".join(lines[:n]) for n in reversed(starts))):
        try:
            compile(text, "<prompt>", "exec", dont_inherit=True)
        except SyntaxError:
            continue
        return text
    return ""


class Answer:
    """The answer's process, asked one thing at a time."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.kinds: dict[int, type] = {}

    def wait(self) -> None:
        """Until the answer's code has run. Raises what it raised."""
        self.read()

    def names(self, wanted: list[str]) -> dict[str, Any]:
        """Those of these names that the answer defines."""
        got = self.ask("names", wanted)
        return {name: self._named(got[name]) for name in wanted if name in got}

    def _named(self, data: Any) -> Any:
        if isinstance(data, list) and data[0] == "m":  # a module of Python's own: ours, not theirs
            if data[1].partition(".")[0] not in sys.stdlib_module_names:
                raise TypeError(f"the tests use the module {data[1]!r}, which they do not import")
            return importlib.import_module(data[1])
        return self.decode(data)

    def ask(self, *request: Any) -> Any:
        """The plain `ok` of a reply. Raises the error that it tells of."""
        self.channel.send(request)
        return self.read().get("ok")

    def read(self) -> Any:
        """A reply. Raises the error that it tells of."""
        reply = self.channel.receive()
        if "error" in reply:
            name, bases, message = reply["error"]
            kind = self.decode(reply["kind"]) if reply.get("kind") else None
            if not isinstance(kind, type):
                kind = _exception_class(name, [name, *bases])
            raise kind(str(message))
        return reply

    def decode(self, data: Any) -> Any:
        """Plain data, or what stands for something in the answer's process."""
        return decode(data, self._other)

    def _other(self, data: Any) -> Any:
        if data[0] == "x":
            number = int(data[1])
            if number not in self.kinds:
                self.kinds[number] = _exception_class(str(data[2]), data[3], new=True)
            return self.kinds[number]
        if data[0] != "o":
            raise TypeError(f"the answer gave something unknown: {str(data[0])[:40]!r}")
        return AnswerObject(self, int(data[1]), str(data[2]))

    def encode(self, value: Any) -> Any:
        """Plain data, or what the answer itself gave. Raises TypeError for anything else."""
        return encode(value, _refuse_to_send)


def _refuse_to_send(value: Any) -> Any:
    if type(value) is AnswerObject:
        return ["o", object.__getattribute__(value, "_number")]
    raise TypeError(
        f"the tests hand the answer a {type(value).__name__}; it can be given plain data alone: numbers,"
        " text, lists, tuples, sets, dicts"
    )


def _exception_class(name: str, bases: list[str], *, new: bool = False) -> type:
    for base in bases:
        kind = getattr(builtins, base, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                kind("")
            except TypeError:  # it wants more than a message
                continue
            return type(name, (kind,), {}) if new else kind
    return RuntimeError


class AnswerObject:
    """Something in the answer's process that is no plain data: a function, an object, an iterator.

    It can be called and asked for attributes, items, its length and text; what comes of that is data
    again. It is never equal to anything, nor true or false: an answer would decide about that.
    """

    __slots__ = ("_answer", "_kind", "_number")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, answer: Answer, number: int, kind: str) -> None:
        for name, value in (("_answer", answer), ("_number", number), ("_kind", kind)):
            object.__setattr__(self, name, value)

    def _ask(self, what: str, *args: Any) -> Any:
        answer = self._answer
        return answer.decode(answer.ask(what, self._number, *map(answer.encode, args)))

    def _refuse(self, *args: Any) -> NoReturn:
        raise TypeError(
            f"the answer gave a {self._kind}, which is no plain data: tests can compare numbers, text,"
            " lists, tuples, sets, dicts"
        )

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __bool__ = __contains__ = __index__ = __int__ = __float__ = _refuse

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answer = self._answer
        sent = [answer.encode(list(args)), answer.encode(kwargs)]
        answer.channel.send(["call", self._number, *sent])
        reply = answer.read()
        if reply.get("ok") is None and "changed" in reply:
            new_args, new_kwargs = (answer.decode(part) for part in reply["changed"])
            for old, new in zip(args, new_args, strict=True):
                _change(old, new)
            for name, old in kwargs.items():
                _change(old, new_kwargs[name])
        return answer.decode(reply.get("ok"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("put", key, value)

    def __len__(self) -> int:
        size = self._ask("len")
        return size if isinstance(size, int) else self._refuse()

    def __iter__(self) -> Iterator[Any]:
        answer = self._answer
        iterator = answer.ask("iter", self._number)
        while True:
            answer.channel.send(["next", int(iterator[1])])
            reply = answer.read()
            if reply.get("stop"):
                return
            yield answer.decode(reply.get("ok"))

    def __next__(self) -> Any:
        self._answer.channel.send(["next", self._number])
        reply = self._answer.read()
        if reply.get("stop"):
            raise StopIteration
        return self._answer.decode(reply.get("ok"))

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))


def _change(old: Any, new: Any) -> None:
    """What a function did to an argument, done to ours."""
    if type(old) is not type(new) or old == new:
        return
    if isinstance(old, (list, bytearray)):
        old[:] = new
    elif isinstance(old, (dict, set)):
        old.clear()
        old.update(new)
