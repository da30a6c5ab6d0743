"""Jinja for untrusted templates of chats and tasks: no access to Python objects, bounded work.

Jinja's own immutable sandbox keeps a template from Python's internals and from changing its input.
This one also bounds what a template may cost: every loop turn, call, filter and operator is
counted against a budget of steps and seconds, no string or list may outgrow the budget's size, and
only the filters and methods that chat templates need exist.

The dialect of chats is transformers': `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`,
`strftime_now`, a `tojson` that does not escape HTML, and `{% generation %}`. That of evaluation tasks is
lm-evaluation-harness's: plain Jinja in which an undefined name is an error, a trailing newline stays,
and `regex_replace` is a filter.
Tested against: transformers and lm-evaluation-harness, the same text from the same templates.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils
import regex
from jinja2.exceptions import SecurityError

from glassbox.core.errors import UserError

MAX_CHARS = 8_000_000
MAX_STEPS = 1_000_000
MAX_SECONDS = 10.0
MAX_SOURCE_CHARS = 1_000_000
_MAX_INT_BITS = 2048
_MAX_WIDTH = 1000

Dialect = Literal["chat", "task"]

# Names no template can spell: they hold a blank.
BUDGET, MARKS = "glassbox budget", "glassbox generation marks"

_FILTERS = [
    "abs",
    "attr",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "sort",
    "string",
    "striptags",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
]
_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "count",
        "endswith",
        "find",
        "get",
        "index",
        "isalnum",
        "isalpha",
        "isdecimal",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "items",
        "join",
        "keys",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
        "values",
    ]
)


@dataclass
class Budget:
    """The steps and characters that a rendering may still use."""

    steps: int = MAX_STEPS
    deadline: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)

    def spend(self) -> None:
        """Count one step."""
        self.steps -= 1
        if self.steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")
        if self.steps % 64 == 0 and time.monotonic() > self.deadline:
            raise SecurityError(f"it takes more than {MAX_SECONDS:.0f} seconds")


def _check_size(size: int) -> None:
    if size > MAX_CHARS:
        raise SecurityError(f"it builds something of more than {MAX_CHARS} characters")


def _concatenate(parts: Iterable[str]) -> str:
    kept, size = [], 0
    for part in parts:
        size += len(part)
        _check_size(size)
        kept.append(part)
    return "".join(kept)


def _check_replace(text: str, old: str, new: str) -> None:
    _check_size(len(text) + text.count(old) * len(new))


class GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: what is inside was said by the assistant.

    Where the context holds a pair of marks, the rendered block is put between them.
    """

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it as an instance variable

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [jinja2.nodes.ContextReference()])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: jinja2.runtime.Context, caller: Callable[[], str]) -> str:
        begin, end = context.get(MARKS) or ("", "")
        return begin + caller() + end


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without attributes that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as Jinja's, so that `self` can be a name
        jinja2.utils.Namespace.__init__(args[0])
        for name, value in dict(*args[1:], **kwargs).items():
            _Namespace.__setitem__(args[0], name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


class TemplateSandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A Jinja environment without access to attributes and with bounded work."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])
    concat = staticmethod(_concatenate)

    def __init__(self, dialect: Dialect = "chat") -> None:
        chat = dialect == "chat"
        super().__init__(
            trim_blocks=chat,
            lstrip_blocks=chat,
            keep_trailing_newline=not chat,
            undefined=jinja2.Undefined if chat else jinja2.StrictUndefined,
            extensions=[GenerationBlocks, jinja2.ext.loopcontrols] if chat else [],
            optimized=False,  # constants are folded by the same guarded operators, at render time
            cache_size=0,
        )
        self.filters = {name: _guarded(name, self.filters[name]) for name in _FILTERS}
        self.filters["tojson"] = _guarded("tojson", _to_json)
        if not chat:
            self.filters["regex_replace"] = _guarded("regex_replace", _regex_replace)
        self.globals = {
            "range": jinja2.sandbox.safe_range,
            "dict": lambda *args, **kwargs: dict(*args, **kwargs),
            "namespace": _Namespace,
            "cycler": jinja2.utils.Cycler,
            "joiner": jinja2.utils.Joiner,
            "raise_exception": _raise_exception,
            "strftime_now": lambda format: datetime.now().strftime(format),
        }

    def compile_guarded(self, source: str) -> jinja2.Template:
        """Compile a template with its loops and joins counted. Raises UserError."""
        if len(source) > MAX_SOURCE_CHARS:
            raise UserError(
                f"chat_template has {len(source)} characters; at most {MAX_SOURCE_CHARS}"
            )
        try:
            tree = self.parse(source)
            _count_steps(tree)
            tree.set_environment(self)
            code = self.compile(tree)
        except Exception as error:  # whatever a hostile source does to parser and compiler
            raise UserError(f"chat_template cannot be compiled: {_one_line(error)}") from None
        return jinja2.Template.from_code(self, code, dict(self.globals))

    def render_guarded(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Render within a fresh budget. Raises UserError, whatever the template does."""
        try:
            return _concatenate(template.generate({**variables, BUDGET: Budget()}))
        except Exception as error:  # a template is foreign code: anything may come out of it
            raise UserError(f"chat_template failed: {_one_line(error)}") from None

    @jinja2.pass_context
    def spend_step(self, context: jinja2.runtime.Context) -> str:
        """Called by compiled templates at the head of each loop and macro."""
        context[BUDGET].spend()
        return ""

    @jinja2.pass_context
    def join_parts(self, context: jinja2.runtime.Context, *parts: Any) -> str:
        """The `~` operator."""
        context[BUDGET].spend()
        return _concatenate(map(str, parts))

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        context[BUDGET].spend()
        sized = (str, bytes, list, tuple)
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            _check_size(len(left) + len(right))
        elif operator == "*" and (isinstance(left, sized) or isinstance(right, sized)):
            content, times = (left, right) if isinstance(left, sized) else (right, left)
            _check_size(len(content) * times if isinstance(times, int) else 0)
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * max(right, 1)
            if operator == "*":
                bits = left.bit_length() + right.bit_length()
            if bits > _MAX_INT_BITS:
                raise SecurityError("it computes a number that is too large")
        elif operator == "%" and isinstance(left, (str, bytes)):
            _check_format(str(left))
        return super().call_binop(context, operator, left, right)

    def call(
        self, context: jinja2.runtime.Context, function: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        context[BUDGET].spend()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, (str, bytes, int, float, list, tuple, dict)):
            name = function.__name__
            if name not in _METHODS:
                raise SecurityError(f"the method {name!r} is not available")
            if name == "replace" and isinstance(owner, str) and len(args) >= 2:
                _check_replace(owner, args[0], args[1])
            elif name == "join" and isinstance(owner, str) and args:
                args = (list(args[0]),)
                _check_size(sum(len(str(part)) + len(owner) for part in args[0]))
        return super().call(context, function, *args, **kwargs)

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        # Jinja's own gives something that prints as nothing: an attack would pass unnoticed.
        raise SecurityError(f"access to {attribute!r} of a {type(obj).__name__} is not allowed")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped


def _check_format(template: str) -> None:
    """Refuse widths that are large or computed: `%*d`, `%99999d`, `{:>99999}`, `{:{}}`."""
    if regex.search(r"\d{4}|%[^a-zA-Z%]*\*|:[^}]*\{", template):
        raise SecurityError("a format asks for a width that is computed or above 999")


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts its calls and bounds what it returns."""
    wants = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @jinja2.pass_context
    def guarded(context: jinja2.runtime.Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        context[BUDGET].spend()
        if name == "replace" and len(args) >= 2:
            _check_replace(str(value), str(args[0]), str(args[1]))
        elif name == "join":
            value = list(value)
            between = len(str(args[0])) if args else len(str(kwargs.get("d", "")))
            _check_size(sum(len(str(part)) + between for part in value))
        elif name in ("indent", "tojson", "truncate"):
            for width in (*args, *kwargs.values()):
                if isinstance(width, str):
                    _check_size(len(width) * 1000)
                elif name != "truncate" and isinstance(width, int) and width > _MAX_WIDTH:
                    raise SecurityError(f"{name} by {width} is too wide")
        first = {
            "context": context,
            "eval_context": context.eval_ctx,
            "environment": context.environment,
        }
        result = function(*([first[wants]] if wants else []), value, *args, **kwargs)
        if isinstance(result, (str, list, tuple)):
            _check_size(len(result))
        return result

    return guarded


def _count_steps(tree: jinja2.nodes.Template) -> None:
    """Begin each loop and macro with a counted step, and make `~` a counted call."""

    def environment_call(name: str, arguments: list[jinja2.nodes.Expr]) -> jinja2.nodes.Call:
        function = jinja2.nodes.EnvironmentAttribute(name)
        return jinja2.nodes.Call(function, arguments, [], None, None)

    def visit(node: jinja2.nodes.Node) -> None:
        for key, value in node.iter_fields():
            if isinstance(value, list):
                setattr(node, key, [replaced(item) for item in value])
            elif isinstance(value, jinja2.nodes.Node):
                setattr(node, key, replaced(value))
        if isinstance(node, (jinja2.nodes.For, jinja2.nodes.Macro, jinja2.nodes.CallBlock)):
            step = jinja2.nodes.Output([environment_call("spend_step", [])])
            node.body.insert(0, step.set_lineno(node.lineno))

    def replaced(node: Any) -> Any:
        if not isinstance(node, jinja2.nodes.Node):
            return node
        visit(node)
        if isinstance(node, jinja2.nodes.Concat):
            return environment_call("join_parts", node.nodes).set_lineno(node.lineno)
        return node

    visit(tree)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    return re.sub(pattern, replacement, text, count=count)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
