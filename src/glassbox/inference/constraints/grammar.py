"""Token masks of constraints: which tokens may come next.

The automaton over bytes is llguidance's (extra `constrain`); this module supplies the tokens'
bytes, the end of the answer, the limits and the cache. Any tokenizer is supported: if a token's
bytes depend on the token before it (the spaces of WordPiece and sentencepiece), the automaton is
given the vocabulary once for each case, and the case selects the part of the mask.

Tested against: every token tried one by one on small vocabularies; `re` and `jsonschema` on
answers.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.constraints.specs import Choice, JsonSchema, Regex

if TYPE_CHECKING:
    from glassbox.tokenizers.tokenizer import Tokenizer

_WORD = 32
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"  # bounded: a weak model could otherwise go on for ever
_NO_FORCING = '%llguidance {"no_forcing": true}\n'  # a text's every spelling in tokens is allowed
_CLASS = re.compile(r"\\.", re.DOTALL)
_PYTHON = MappingProxyType(
    {r"\w": r"[\p{L}\p{N}_]", r"\W": r"[^\p{L}\p{N}_]", r"\S": r"[^\s\x1c-\x1f]"}
)
"""Character classes with the meaning of `re`, in a form that may also appear within a class."""
_WHERE = re.compile(
    r"^(error: )?(at \d+\(\d+\): )?(failed to compile JSON schema: |invalid regex .* \(in regex\): )?"
)
_LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}


class GrammarCompiler:
    """Compiles constraints for a tokenizer, with an LRU cache of the last `capacity` of them.

    vocab_size: the model's V, if it is larger than the tokenizer's. Thread-safe; a server may
        compile on another thread than the engine's.
    Raises UserError if the extra `constrain` is not installed.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int | None = None, *, capacity: int = 64
    ) -> None:
        library = _library()
        size = tokenizer.vocab_size if vocab_size is None else vocab_size
        self.vocab_size = size
        self._width = -(-size // _WORD) * _WORD  # so that each case's slice is whole words
        self._cases = _Cases(tokenizer, size)
        blank = [b""] * (self._width - size)
        words = [word for table in self._cases.tables for word in (*table, *blank)]
        self._words = library.LLTokenizer(_Vocabulary(words), len(words) + _WORD, slices=None)
        self._limits = library.LLParserLimits(**_LIMITS)
        self._library = library
        self._capacity = capacity
        self._grammars: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()
        self._under_way: dict[str, threading.Lock] = {}  # what is being compiled right now

    def compile(self, constraint: JsonSchema | Regex | Choice) -> Grammar:
        """Compile a constraint to a grammar over this tokenizer's tokens.

        Raises UserError, one line, for invalid schemas or patterns, unsupported or too large ones,
        and those that cannot be written with this vocabulary.
        """
        key = constraint.key
        with self._lock:
            own = self._under_way.setdefault(key, threading.Lock())
        with own:  # who asks for the same waits for it; nobody else does
            try:
                grammar = self._found(key)
                return self._compiled(constraint) if grammar is None else grammar
            finally:
                with self._lock:
                    self._under_way.pop(key, None)

    def _found(self, key: str) -> Grammar | None:
        with self._lock:
            grammar = self._grammars.get(key)
            if grammar is not None:
                self._grammars.move_to_end(key)
            return grammar

    def _compiled(self, constraint: JsonSchema | Regex | Choice) -> Grammar:
        source = _source(constraint, self._library)
        start = self._library.LLMatcher(self._words, source, log_level=0, limits=self._limits)
        if start.is_error():
            raise UserError(f"{_named(constraint)}: {_first_line(start.get_error())}")
        grammar = Grammar(start, self._cases, self.vocab_size, self._width)
        if not (start.is_accepting() or bool(grammar.matcher().mask().any())):
            why = grammar.matcher().error or "no answer can be written with this vocabulary"
            raise UserError(f"{_named(constraint)}: {why}")
        with self._lock:
            self._grammars[constraint.key] = grammar
            while len(self._grammars) > self._capacity:
                self._grammars.popitem(last=False)
        return grammar


class Grammar:
    """A compiled constraint; `matcher` starts an answer."""

    def __init__(self, start: Any, cases: _Cases, vocab_size: int, width: int) -> None:
        self._start, self._cases = start, cases
        self.vocab_size, self._width = vocab_size, width

    def matcher(self, end_ids: Iterable[int] = ()) -> ConstraintMatcher:
        """Return the state of an empty answer; `end_ids` are the tokens that end it."""
        ends = frozenset(end_ids)
        start = self._start.deep_copy()
        return ConstraintMatcher(start, self._cases, self.vocab_size, self._width, ends)


class ConstraintMatcher:
    """The state of one answer in its grammar.

    finished: the answer is complete and nothing can follow: an end token was accepted, or the
        grammar is at its end (the engine then ends it, as "stop", without sampling another token).
    accepting: the answer may end here.
    error: why nothing can follow although the answer is not complete (a limit was reached, or the
        vocabulary cannot write the required text); None otherwise. The mask is then empty.
    """

    def __init__(
        self, state: Any, cases: _Cases, vocab_size: int, width: int, end_ids: frozenset[int]
    ) -> None:
        self._state, self._cases, self._width = state, cases, width
        self.vocab_size = vocab_size
        self.end_ids = end_ids
        self._flags = [  # the word and the bit of each end token
            (token // _WORD, np.array(1 << token % _WORD, dtype=np.uint32).view(np.int32))
            for token in end_ids
            if token < vocab_size
        ]
        self._history: list[int] = []  # tokens; an end token is the last
        self._ended = False
        self._next: np.ndarray[Any, np.dtype[np.int32]] | None = None  # what may follow, packed

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""
        return not self._state.is_error() and bool(self._state.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return self._ended or (self.accepting and not self._following().any())

    @property
    def error(self) -> str | None:
        """Why the answer can neither continue nor end; None otherwise."""
        if self._ended or self._following().any() or self.accepting:
            return None
        why = _first_line(self._state.get_error()) if self._state.is_error() else "NoExtension"
        if why.startswith("NoExtension"):
            return "no token of this vocabulary can come next"
        return f"the answer's grammar became too complex ({why})"

    def _following(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """The tokens that may follow, as packed bits, without those that end the answer; computed
        once.
        """
        if self._next is None:
            words = self._width // _WORD
            self._next = np.zeros(words, dtype=np.int32)
            if not (self._state.is_error() or self._state.is_stopped()):
                packed = np.frombuffer(self._state.compute_bitmask(), dtype=np.int32)
                case = self._case()
                self._next = packed[case * words : (case + 1) * words].copy()
                for word, flag in self._flags:
                    self._next[word] &= ~flag
        return self._next

    def fill(self, bits: np.ndarray[Any, np.dtype[np.int32]]) -> None:
        """Write the mask as bits, 32 tokens per word, the first in the lowest bit."""
        bits[:] = 0
        if self._ended:
            return
        bits[:] = self._following()
        if self.accepting:
            for word, flag in self._flags:
                bits[word] |= flag

    def mask(self) -> Bool[Tensor, " V"]:
        """Which tokens may come next; end tokens only if the answer may end."""
        return masks([self], self.vocab_size)[0]

    def accept(self, token: int) -> None:
        """Advance by one token. Raises UserError for a token that may not come next."""
        if token in self.end_ids:
            if self._ended or not self.accepting:
                raise UserError(f"token {token} ends the answer before its grammar does")
            self._ended = True
        elif (
            self._ended
            or not 0 <= token < self.vocab_size
            or not self._state.try_consume_tokens([self._case() * self._width + token])
        ):
            if self._state.is_error():  # a limit was hit
                raise UserError(f"the answer's grammar: {_first_line(self._state.get_error())}")
            raise UserError(f"token {token} is not allowed here by the answer's grammar")
        self._history.append(token)
        self._next = None

    def rollback(self, count: int) -> None:
        """Undo the last `count` tokens."""
        assert 0 <= count <= len(self._history), (count, len(self._history))
        if count == 0:
            return
        self._next = None
        if self._ended:
            self._ended = False
            self._history.pop()
            count -= 1
        if count:
            back = self._state.rollback(count)
            assert back, self._state.get_error()
            del self._history[-count:]

    def copy(self) -> ConstraintMatcher:
        """An independent copy of the state."""
        other = copy.copy(self)
        other._state = self._state.deep_copy()
        other._history = list(self._history)
        return other

    def _case(self) -> int:
        return self._cases.after(self._history[-1] if self._history else None)


def masks(
    matchers: Sequence[ConstraintMatcher | None],
    vocab_size: int,
    device: torch.device | str = "cpu",
) -> Bool[Tensor, "R V"]:
    """The masks of several rows; a row without a matcher allows every token.

    The bits of all rows are transferred packed and unpacked in one operation.
    """
    words = -(-vocab_size // _WORD)
    packed = np.full((len(matchers), words), -1, dtype=np.int32)
    for row, matcher in enumerate(matchers):
        if matcher is not None:
            assert matcher.vocab_size == vocab_size, (matcher.vocab_size, vocab_size)
            matcher.fill(packed[row])
    bits = torch.from_numpy(packed).to(device)
    shifts = torch.arange(_WORD, dtype=torch.int32, device=device)
    return ((bits.unsqueeze(-1) >> shifts) & 1).bool().flatten(1)[:, :vocab_size]


class _Cases:
    """The bytes of every token, in each case that decoding distinguishes: first, later, after the
    end of a word.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        suffix = _suffix(getattr(tokenizer.pretokenizer, "decoder_entry", None))
        before = [None, "x", *([] if suffix is None else ["x" + suffix])]
        special = set(tokenizer.special_tokens.values())
        # Names are None for ids that nothing has, as in a vocabulary rounded up.
        names = [tokenizer.id_to_token(number) for number in range(vocab_size)]
        usable = [n for n, name in enumerate(names) if name is not None and n not in special]
        tables = []
        for previous in before:
            table = [b""] * vocab_size
            for number in usable:
                table[number] = tokenizer.decode_step(number, previous)[0]
            tables.append(table)
        if all(table == tables[0] for table in tables):
            tables = tables[:1]
        self.tables = tables
        self._ends_word = (
            {n for n in usable if (names[n] or "").endswith(suffix)}
            if suffix is not None and len(tables) > 1
            else frozenset()
        )

    def after(self, previous: int | None) -> int:
        """The case of the token that follows `previous`."""
        if previous is None or len(self.tables) == 1:
            return 0
        return 2 if previous in self._ends_word else 1


def _suffix(entry: Any) -> str | None:
    """The end-of-word suffix in the tokens of a `BPEDecoder`."""
    if isinstance(entry, dict):
        if entry.get("type") == "BPEDecoder":
            return str(entry.get("suffix", "</w>"))
        entry = entry.get("decoders", ())
    found = (_suffix(step) for step in entry or ())
    return next((suffix for suffix in found if suffix is not None), None)


class _Vocabulary:
    """The vocabulary in the form that llguidance takes, with an end token of its own."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, words: Sequence[bytes]) -> None:
        self.tokens = [*words, b"<end>"]
        self.eos_token_id = len(words)
        blank = [number for number, word in enumerate(words) if not word]
        self.special_token_ids = [*blank, self.eos_token_id]

    def __call__(self, text: str | bytes) -> list[int]:
        return []  # asked for only where the automaton may force a spelling, and ours may not


def _source(constraint: JsonSchema | Regex | Choice, library: Any) -> str:
    """The constraint in llguidance's language."""
    if isinstance(constraint, JsonSchema):
        definition = constraint.definition
        schema = {} if definition is True else definition
        if schema is False:
            raise UserError("json_schema: false allows nothing; give a schema")
        assert isinstance(schema, dict)
        options = {"whitespace_pattern": _WHITESPACE, "lenient": False, "coerce_one_of": False}
        text = json.dumps({**schema, "x-guidance": options})
        return str(library.LLMatcher.grammar_from_lark(f"{_NO_FORCING}start: %json {text}"))
    if isinstance(constraint, Choice):
        # one terminal, hence one automaton; as many rules, thousands exceed the limits of a step
        texts = " | ".join(json.dumps(option) for option in dict.fromkeys(constraint.options))
        rules = f"{_NO_FORCING}start: CHOICE\nCHOICE: {texts}"
        return str(library.LLMatcher.grammar_from_lark(rules))
    pattern = _CLASS.sub(lambda found: _PYTHON.get(found[0], found[0]), constraint.pattern)
    lark = json.loads(library.LLMatcher.grammar_from_regex(pattern))
    rules = lark["grammars"][0]["lark_grammar"]
    return str(library.LLMatcher.grammar_from_lark(_NO_FORCING + rules))


def _named(constraint: JsonSchema | Regex | Choice) -> str:
    if isinstance(constraint, Regex):
        return f"regex {constraint.pattern[:60]!r}"
    return constraint.kind


def _first_line(message: str) -> str:
    """The relevant line of llguidance's message, which shows the position over several lines."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    first = next((line for line in lines if line.startswith("error: ")), "".join(lines[:1]))
    if "oneOf" in first:
        return "oneOf whose parts can hold at once is not supported; use anyOf, or a const in each"
    return _WHERE.sub("", first) or "the automaton failed"


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise UserError(
            "constrained output needs the extra 'constrain': pip install 'glassbox-lm[constrain]'"
        ) from None
    return llguidance
