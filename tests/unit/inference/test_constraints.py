"""Constrained output: every finished answer valid by another's judgement, every valid one reachable."""

from __future__ import annotations

import json
import random
import re
import time
import unicodedata

import numpy as np
import pytest
import regex
import torch
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from glassbox.core.errors import UserError
from glassbox.inference.constraints.grammar import ConstraintMatcher, GrammarCompiler, masks
from glassbox.inference.constraints.specs import Choice, Constraint, JsonSchema, Regex, json_object
from glassbox.tokenizers import (
    Tokenizer,
    train_bpe,
    train_characters,
    train_unigram,
    train_wordpiece,
)
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import BYTE_TO_CHAR
from glassbox.tokenizers.patterns import PreTokenizer
from support.random_constraints import patterns, schemas

CORPUS = [
    '{"name": "Ada", "age": 36, "list": [1, 2.5, null, true, false], "x y": "é"}',
    "yes no maybe not now; 0123456789 abcdefghijklmnopqrstuvwxyz - _ + . ! [ ] { } : ,",
    'the cat sat on the mat, and said: "why not?"',
] * 3

END = 0  # the first special token, in each of these
KINDS = {
    "byte-level": lambda: train_bpe(CORPUS, 330),
    "wordpiece": lambda: train_wordpiece(CORPUS, 220, lowercase=False),
    "unigram": lambda: train_unigram(CORPUS, 330, normalizer="none"),
    "characters": lambda: train_characters(CORPUS, 320, unknown="bytes"),
}


@pytest.fixture(scope="module", params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def tiny_tokenizer(*merged: str) -> Tokenizer:
    """The 256 bytes, an end token, and these texts as tokens of their own."""
    vocab = {char: i for i, char in enumerate(BYTE_TO_CHAR)}
    added = [AddedToken("<|end|>", 256)]
    added += [AddedToken(text, 257 + i, special=False) for i, text in enumerate(merged)]
    return Tokenizer(
        BytePairModel(vocab, []),
        PreTokenizer.named("gpt2"),
        added,
        roles={"eos_token": "<|end|>"},
    )


def write(
    matchers: list[ConstraintMatcher], vocab_size: int, seed: int, most: int
) -> list[list[int]]:
    """Tokens drawn at random among those allowed, all rows at once, until each ends or has `most`."""
    chance = np.random.default_rng(seed)
    written: list[list[int]] = [[] for _ in matchers]
    live = list(range(len(matchers)))
    for _ in range(most):
        live = [row for row in live if not matchers[row].finished]
        if not live:
            break
        allowed = masks([matchers[row] for row in live], vocab_size).numpy()
        scores = np.where(allowed, chance.gumbel(size=allowed.shape), -np.inf)
        stuck = set()
        for row, token, any_ in zip(live, scores.argmax(1), allowed.any(1), strict=True):
            if any_:
                matchers[row].accept(int(token))
                written[row].append(int(token))
            else:
                assert matchers[row].error == "no token of this vocabulary can come next"
                stuck.add(row)
        live = [row for row in live if row not in stuck]
    return written


def can_write_all(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary has every byte, so that no answer gets stuck."""
    singles = {tokenizer.token_bytes(n) for n in range(tokenizer.vocab_size)}
    return all(bytes([byte]) in singles for byte in range(128))


def assigned(char: str) -> bool:
    return unicodedata.category(char) != "Cn"


def text_of(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special=True)


def spell(matcher: ConstraintMatcher, tokenizer: Tokenizer, text: str) -> bool:
    """Whether some spelling of the text is allowed and complete: all are tried, longest token first."""
    content = text.encode()

    def go_on(at: int) -> bool:
        if at == len(content):
            return matcher.accepting
        previous = matcher._history[-1] if matcher._history else None
        table = matcher._cases.tables[matcher._cases.after(previous)]
        allowed = matcher.mask().nonzero().squeeze(1).tolist()
        fitting = [t for t in allowed if table[t] and content.startswith(table[t], at)]
        for token in sorted(fitting, key=lambda t: -len(table[t])):
            matcher.accept(token)
            if go_on(at + len(table[token])):
                return True
            matcher.rollback(1)
        return False

    return go_on(0)


def matchers_of(
    compiler: GrammarCompiler, constraints: list[Constraint]
) -> tuple[list[Constraint], list[ConstraintMatcher]]:
    """Those that the vocabulary can begin to write, with end-of-text as their end."""
    begun = {constraint.key: begin(compiler, constraint) for constraint in constraints}
    kept = [constraint for constraint in constraints if begun[constraint.key] is not None]
    return kept, [begun[constraint.key] for constraint in kept]


def begin(compiler: GrammarCompiler, constraint: Constraint) -> ConstraintMatcher | None:
    try:
        return compiler.compile(constraint).matcher([END])
    except UserError as error:
        refusal = str(error)
    assert "vocabulary" in refusal
    return None


# ---- every finished answer is valid, judged by others ---------------------------------------------


def test_answers_to_random_schemas_are_valid(tokenizer: Tokenizer) -> None:
    """125 schemas a kind of tokenizer, judged by jsonschema; text as `decode` gives it."""
    cases = schemas(seed=tokenizer.vocab_size, count=125)
    compiler = GrammarCompiler(tokenizer)
    kept, matchers = matchers_of(compiler, [JsonSchema(definition=schema) for schema, _ in cases])
    answers = write(matchers, compiler.vocab_size, seed=1, most=300)
    finished = 0
    for constraint, matcher, ids in zip(kept, matchers, answers, strict=True):
        assert isinstance(constraint, JsonSchema)
        if matcher.finished:
            finished += 1
            value = json.loads(text_of(tokenizer, ids))
            checker = Draft202012Validator.FORMAT_CHECKER
            Draft202012Validator(constraint.definition, format_checker=checker).validate(value)
    assert finished >= (115 if can_write_all(tokenizer) else 50)


def test_answers_to_random_patterns_are_valid(tokenizer: Tokenizer) -> None:
    cases = patterns(seed=tokenizer.vocab_size, count=125)
    compiler = GrammarCompiler(tokenizer)
    kept, matchers = matchers_of(compiler, [Regex(pattern=pattern) for pattern, _ in cases])
    answers = write(matchers, compiler.vocab_size, seed=2, most=300)
    finished = 0
    for constraint, matcher, ids in zip(kept, matchers, answers, strict=True):
        assert isinstance(constraint, Regex)
        text = text_of(tokenizer, ids)
        # Letters that this Python's Unicode does not know yet are none to `re`.
        if matcher.finished and all(map(assigned, text)):
            finished += 1
            assert re.fullmatch(constraint.pattern, text), (constraint, text)
    assert finished >= (90 if can_write_all(tokenizer) else 70)


# ---- what is valid can be written -----------------------------------------------------------------


def test_valid_values_can_be_written() -> None:
    tokenizer = KINDS["byte-level"]()
    compiler = GrammarCompiler(tokenizer)
    for schema, value in schemas(seed=11, count=150):
        grammar = compiler.compile(JsonSchema(definition=schema))
        for indent in (None, 2):
            text = json.dumps(value, indent=indent, ensure_ascii=False)
            matcher = grammar.matcher([tokenizer.eos_id])
            for token in tokenizer.encode(text):
                matcher.accept(token)
            assert matcher.accepting, (schema, text)


def test_matching_texts_can_be_written() -> None:
    tokenizer = KINDS["byte-level"]()
    compiler = GrammarCompiler(tokenizer)
    for pattern, text in patterns(seed=12, count=200):
        matcher = compiler.compile(Regex(pattern=pattern)).matcher()
        for token in tokenizer.encode(text):
            matcher.accept(token)
        assert matcher.accepting, (pattern, text)


def test_every_choice_can_be_written_and_nothing_else(tokenizer: Tokenizer) -> None:
    options = tuple(
        text
        for text in ("yes", "no", "not now", "maybe", "no.", "é!")
        if tokenizer.decode(tokenizer.encode(text)) == text  # WordPiece writes "no ."
    )
    assert len(options) >= 4
    compiler = GrammarCompiler(tokenizer)
    grammar = compiler.compile(Choice(options=options))
    for option in options:
        assert spell(grammar.matcher(), tokenizer, option), option
    for other in ("", "ye", "yes ", "noo", "not"):
        assert not spell(grammar.matcher(), tokenizer, other), other
    matchers = [grammar.matcher([tokenizer.eos_id]) for _ in range(200)]
    answers = write(matchers, compiler.vocab_size, seed=3, most=40)
    assert {text_of(tokenizer, ids) for ids in answers} == set(options)


# ---- masks by brute force -------------------------------------------------------------------------


def test_masks_equal_trying_every_token() -> None:
    """`regex` says by partial matching whether a text can still become a match."""
    tokenizer = tiny_tokenizer("ab", "ba", "aab", "b1", "12", "1a2", "bb", "a b", "1.", ".5")
    compiler = GrammarCompiler(tokenizer)
    ascii_ids = [n for n in range(compiler.vocab_size) if tokenizer.token_bytes(n).isascii()]
    checked = 0
    for pattern in (
        "(ab|ba)*1", "a{2,4}b?", "[ab]+[12]{2}", "(a|ab)(b|1a2)", "1?2|ab*", r"\d+(\.\d+)?",
        "a b|a+b+", "(aab|a)*", "b[^a]b",
    ):  # fmt: skip
        judge = regex.compile(pattern)
        grammar = compiler.compile(Regex(pattern=pattern))
        for seed in range(6):
            matcher = grammar.matcher([tokenizer.eos_id])
            chance, ids = random.Random(seed), []
            for _ in range(6):
                text = tokenizer.decode(ids)
                mask = matcher.mask()
                for token in ascii_ids:
                    if token == tokenizer.eos_id:
                        expected = judge.fullmatch(text) is not None
                    else:
                        longer = text + tokenizer.decode([token])
                        expected = judge.fullmatch(longer, partial=True) is not None
                    assert bool(mask[token]) == expected, (pattern, text, token)
                    checked += 1
                options = [int(t) for t in mask.nonzero() if int(t) in set(ascii_ids[:-1])]
                options = [t for t in options if t != tokenizer.eos_id]
                if not options:
                    break
                ids.append(chance.choice(options))
                matcher.accept(ids[-1])
    assert checked > 20_000


def test_masks_equal_accepting_every_token() -> None:
    tokenizer = tiny_tokenizer('{"', '":', "},", "tru", "e}", "[[", "1,", '"a"')
    compiler = GrammarCompiler(tokenizer, vocab_size=301)
    for schema, _ in schemas(seed=13, count=25):
        grammar = compiler.compile(JsonSchema(definition=schema))
        matcher, chance = grammar.matcher([tokenizer.eos_id]), random.Random(5)
        for _ in range(8):
            mask = matcher.mask()
            assert mask.shape == (301,)
            for token in range(301):
                other = matcher.copy()
                if mask[token]:
                    other.accept(token)
                else:
                    with pytest.raises(UserError, match=r"grammar"):
                        other.accept(token)
            if matcher.finished:
                break
            matcher.accept(chance.choice(mask.nonzero().squeeze(1).tolist()))


def test_a_vocabulary_that_is_no_multiple_of_32_and_rows_without_a_constraint() -> None:
    tokenizer = tiny_tokenizer("ab")
    for size in (258, 287, 288, 289, 500):
        compiler = GrammarCompiler(tokenizer, vocab_size=size)
        matcher = compiler.compile(Regex(pattern="ab*")).matcher([256])
        allowed = masks([None, matcher, None], size)
        assert allowed.shape == (3, size)
        assert allowed[0].all()
        assert allowed[2].all()
        assert allowed[1].nonzero().squeeze(1).tolist() == [ord("a") - 33, 257] or {
            tokenizer.decode([t]) for t in allowed[1].nonzero().squeeze(1).tolist()
        } == {"a", "ab"}
        assert torch.equal(allowed[1], matcher.mask())


# ---- the end --------------------------------------------------------------------------------------


def test_the_end_is_allowed_where_the_grammar_may_end_and_forced_where_it_must() -> None:
    tokenizer = tiny_tokenizer()
    end = tokenizer.eos_id
    matcher = GrammarCompiler(tokenizer).compile(Regex(pattern="ab?")).matcher([end])
    a, b = tokenizer.encode("ab")
    assert matcher.mask().nonzero().flatten().tolist() == [a]
    assert not matcher.accepting
    matcher.accept(a)
    assert sorted(matcher.mask().nonzero().flatten().tolist()) == sorted([b, end])
    assert matcher.accepting
    assert not matcher.finished
    matcher.accept(b)
    assert matcher.finished
    assert matcher.mask().nonzero().flatten().tolist() == [end]
    matcher.accept(end)
    assert matcher.finished
    assert not matcher.mask().any()
    assert matcher.error is None
    matcher.rollback(2)
    assert not matcher.finished
    matcher.accept(end)
    assert matcher.finished


def test_a_stop_token_that_is_text_ends_only_a_complete_answer() -> None:
    """A newline, say: within the answer it is not allowed, though the grammar has it."""
    tokenizer = tiny_tokenizer()
    a, newline = tokenizer.encode("a\n")
    matcher = GrammarCompiler(tokenizer).compile(Regex(pattern="a\na|a")).matcher([newline])
    assert not matcher.mask()[newline]
    matcher.accept(a)
    matcher.accept(newline)
    assert matcher.finished


def test_without_end_tokens_a_complete_answer_is_finished() -> None:
    tokenizer = tiny_tokenizer()
    matcher = GrammarCompiler(tokenizer).compile(Choice(options=("ab",))).matcher()
    for token in tokenizer.encode("ab"):
        assert not matcher.finished
        matcher.accept(token)
    assert matcher.finished
    assert not matcher.mask().any()


def test_copies_part_and_rollback_returns() -> None:
    tokenizer = tiny_tokenizer("ab")
    grammar = GrammarCompiler(tokenizer).compile(json_object())
    chance = random.Random(0)
    for _ in range(20):
        matcher = grammar.matcher([tokenizer.eos_id])
        seen, tokens = [], []
        for _ in range(chance.randrange(1, 12)):
            if matcher.finished:
                break
            seen.append(matcher.mask())
            tokens.append(chance.choice(seen[-1].nonzero().flatten().tolist()))
            matcher.accept(tokens[-1])
        other = matcher.copy()
        back = chance.randint(1, len(tokens))
        matcher.rollback(back)
        assert torch.equal(matcher.mask(), seen[len(tokens) - back])
        for token in tokens[len(tokens) - back :]:
            matcher.accept(token)
        assert torch.equal(matcher.mask(), other.mask())


# ---- what cannot be had is refused, in one line and soon ------------------------------------------

BAD_SCHEMAS = {
    "type": {"type": "nope"},
    "lookahead": {"type": "string", "pattern": "(?=a)b"},
    "remote": {"$ref": "http://example.com/schema.json"},
    "empty": {"type": "integer", "minimum": 5, "maximum": 3},
    "unsupported": {"type": "array", "uniqueItems": True},
    "oneOf that both hold": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    "not": {"not": {"type": "string"}},
    "false": False,
    "properties": {"properties": 3},
    "lenient of its own": {"uniqueItems": True, "x-guidance": {"lenient": True}},
    "explosion": {
        "allOf": [
            {"anyOf": [{"properties": {f"p{i}": {"type": t}}} for t in ("integer", "string")]}
            for i in range(20)
        ]
    },
}
BAD_PATTERNS = ["(?=a)b", "(", r"\bfoo", r"(\w)\1", "[^\x00-\U0010ffff]", "a{,3}", "a**{", "[z-a]"]


@pytest.mark.parametrize("name", list(BAD_SCHEMAS))
def test_bad_schemas_are_refused_in_one_line(name: str) -> None:
    compiler = GrammarCompiler(tiny_tokenizer())
    with pytest.raises(UserError, match=r"json_schema: ") as caught:
        compiler.compile(JsonSchema(definition=BAD_SCHEMAS[name]))
    assert "\n" not in str(caught.value)
    assert "at 2(" not in str(caught.value)  # a place in a text that nobody wrote


@pytest.mark.parametrize("pattern", BAD_PATTERNS)
def test_bad_patterns_are_refused_in_one_line(pattern: str) -> None:
    compiler = GrammarCompiler(tiny_tokenizer())
    with pytest.raises(UserError, match=r"regex ") as caught:
        compiler.compile(Regex(pattern=pattern))
    assert "\n" not in str(caught.value)


def _nested(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


TOO_LARGE = {
    "deep": (lambda: JsonSchema(definition=_nested(5_000)), "nested"),
    "long": (lambda: JsonSchema(definition={"enum": ["x" * 70_000]}), "characters"),
    "wide": (
        lambda: JsonSchema(definition={"properties": {f"p{i}": {} for i in range(1_500)}}),
        "properties",
    ),
    "repeats": (lambda: Regex(pattern="(a{1000}){1000}"), "repeats"),
    "repeats of repeats": (lambda: Regex(pattern="((((((a{9}){9}){9}){9}){9}){9})"), "repeats"),
    "repeats in a schema": (
        lambda: JsonSchema(definition={"items": {"pattern": "(.{300}){300}"}}),
        "repeats",
    ),
    "keys twice": (lambda: JsonSchema(definition={"minProperties": 2}), "twice"),
    "pattern": (lambda: Regex(pattern="a" * 70_000), "at most"),
    "choices": (lambda: Choice(options=tuple(f"c{i}" for i in range(30_000))), "characters"),
    "no choice": (lambda: Choice(options=()), "at least"),
    "empty choice": (lambda: Choice(options=("a", "")), "empty"),
    "no number": (lambda: JsonSchema(definition={"const": float("nan")}), "no JSON"),
    "no JSON": (lambda: JsonSchema(definition={"const": {1, 2}}), "no JSON"),
    "surrogate": (lambda: Choice(options=("\ud800",)), "surrogate"),
    "surrogate in a schema": (lambda: JsonSchema(definition={"const": "\ud800"}), "surrogate"),
}


@pytest.mark.parametrize("name", list(TOO_LARGE))
def test_limits(name: str) -> None:
    make, why = TOO_LARGE[name]
    started = time.perf_counter()
    with pytest.raises(ValidationError, match=why):
        make()
    assert time.perf_counter() - started < 5  # a hang is what is looked for, not a speed


HOSTILE = [
    Regex(pattern="((a*)*)*b"),
    Regex(pattern="(a|b)*a(a|b){40}"),
    Regex(pattern="(x+x+)+y"),
    Regex(pattern="(.*a){100}"),
    Regex(pattern=".{0,100}.{0,100}.{0,100}" * 20 + "z"),
    Regex(pattern="(a?){200}(a{200})"),
    Regex(pattern="|".join(f"(.*{i}.*)" for i in range(500))),
    Regex(pattern="[ab]{10000}c"),
    JsonSchema(definition={"$ref": "#"}),
    JsonSchema(definition={"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    JsonSchema(definition=_nested(30)),
    JsonSchema(definition={"type": "string", "minLength": 10**9}),
    JsonSchema(definition={"type": "array", "minItems": 10**9}),
    JsonSchema(definition={"type": "integer", "minimum": 10**30, "maximum": 10**40}),
    JsonSchema(definition={"type": "number", "multipleOf": 1e-12}),
    JsonSchema(definition={"enum": [f"v{i}" for i in range(5_000)]}),
    JsonSchema(definition={"type": "string", "pattern": "^(a|b)*a(a|b){30}$"}),
    JsonSchema(definition={"properties": {f"p{i}": {} for i in range(400)}}),
    JsonSchema(
        definition={
            "$defs": {
                f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
                for i in range(30)
            }
            | {"d30": {"type": "null"}},
            "$ref": "#/$defs/d0",
        }
    ),
]


@pytest.mark.parametrize("which", range(len(HOSTILE)))
def test_hostile_constraints_never_hang(which: int) -> None:
    """Each is compiled and begun, or refused; an answer that hits a limit says so and stops."""
    tokenizer = tiny_tokenizer("ab", "aa", "xx")
    started = time.perf_counter()
    matcher, refusal = None, ""
    try:
        matcher = GrammarCompiler(tokenizer).compile(HOSTILE[which]).matcher([256])
    except UserError as error:
        refusal = str(error)
    if matcher is None:
        assert refusal
        assert "\n" not in refusal
    else:
        chance = random.Random(which)
        for _ in range(40):
            allowed = matcher.mask().nonzero().flatten().tolist()
            if not allowed:
                assert matcher.finished or matcher.error
                break
            matcher.accept(chance.choice(allowed))
    assert time.perf_counter() - started < 20  # a hang is what is looked for, not a speed


def test_compiled_constraints_are_kept_and_forgotten() -> None:
    compiler = GrammarCompiler(tiny_tokenizer(), capacity=2)
    first = compiler.compile(Regex(pattern="a"))
    assert compiler.compile(Regex(pattern="a")) is first
    compiler.compile(Regex(pattern="b"))
    compiler.compile(Choice(options=("a",)))
    assert compiler.compile(Regex(pattern="a")) is not first


def test_a_vocabulary_that_cannot_write_it_is_said() -> None:
    tokenizer = train_characters(["abc"], unknown="error", special_tokens=["<|end|>"])
    with pytest.raises(UserError, match="vocabulary"):
        GrammarCompiler(tokenizer).compile(json_object())
    matcher = GrammarCompiler(tokenizer).compile(Regex(pattern="abz?|abcz")).matcher()
    for token in tokenizer.encode("abc"):
        matcher.accept(token)
    assert not matcher.mask().any()
    assert matcher.error is not None
    assert not matcher.finished
