"""Random schemas and patterns of bounded size, each with an answer that it must allow."""

from __future__ import annotations

import json
import random
import re
from typing import Any

FORMATS = {"date": "2024-02-29", "uuid": "0f8fad5b-d9cb-469f-a165-70867728950e", "ipv4": "10.0.0.7"}
LETTERS = "abcxyz019 _-é"


def random_schema(chance: random.Random, depth: int = 3) -> tuple[dict[str, Any], Any]:
    """A schema, and a value that it allows."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format"]
    kinds += ["object"] * 4 + ["array"] * 3 + ["anyOf", "ref"] if depth else []
    kind = chance.choice(kinds)
    if kind == "string":
        low = chance.randrange(3)
        high = low + chance.randrange(1, 9)
        text = "".join(chance.choices(LETTERS + '"\\\n', k=chance.randint(low, high)))
        return {"type": "string", "minLength": low, "maxLength": high}, text
    if kind == "integer":
        low = chance.randrange(-1000, 1000)
        high = low + chance.randrange(2000)
        return {"type": "integer", "minimum": low, "maximum": high}, chance.randint(low, high)
    if kind == "number":
        low = chance.randrange(-50, 50)
        high = low + chance.randrange(1, 90)
        schema = {"type": "number", "exclusiveMinimum": low, "maximum": high}
        return schema, chance.choice([high, low + 0.5])
    if kind == "boolean":
        return {"type": "boolean"}, chance.random() < 0.5
    if kind == "null":
        return {"type": "null"}, None
    if kind == "enum":
        values = [chance.choice(["a", 'b"', "é", 1, -2, True, None, [1, "x"]]) for _ in range(3)]
        return {"enum": values}, chance.choice(values)
    if kind == "const":
        value = chance.choice(["fixed", 7, {"k": [None, "v"]}])
        return {"const": value}, value
    if kind == "pattern":
        pattern, text = random_pattern(chance, 1)
        return {"type": "string", "pattern": f"^({pattern})$"}, text
    if kind == "format":
        name = chance.choice(sorted(FORMATS))
        return {"type": "string", "format": name}, FORMATS[name]
    if kind == "array":
        items, _ = random_schema(chance, depth - 1)
        low = chance.randrange(3)
        schema = {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}
        first, value = random_schema(chance, depth - 1)
        if chance.random() < 0.3:
            return {"type": "array", "prefixItems": [first], "items": False, "minItems": 1}, [value]
        schema["items"] = first
        return schema, [value] * chance.randint(low, low + 2)
    if kind == "anyOf":
        pairs = [random_schema(chance, depth - 1) for _ in range(chance.randint(2, 3))]
        return {"anyOf": [schema for schema, _ in pairs]}, chance.choice(pairs)[1]
    if kind == "ref":
        schema, value = random_schema(chance, 0)
        name = f"d{chance.randrange(10**6)}"
        return {"allOf": [schema], "title": name}, value
    names = chance.sample(["name", "age", "x y", "é", 'q"', "list", "z"], k=chance.randint(1, 4))
    pairs = {name: random_schema(chance, depth - 1) for name in names}
    required = [name for name in names if chance.random() < 0.6]
    schema = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in pairs.items()},
        "required": required,
        "additionalProperties": False,
    }
    value = {n: v for n, (_, v) in pairs.items() if n in required or chance.random() < 0.5}
    return schema, value


def random_pattern(chance: random.Random, depth: int = 2) -> tuple[str, str]:
    """A pattern in the syntax that `re` and the automaton share, and a text that it matches."""
    parts = []
    for _ in range(chance.randint(1, 3)):
        pattern, text = _atom(chance, depth)
        # Groups are not repeated without bound: `re`, the judge, would backtrack for ever.
        few = ["", "", "?", "{2}"]
        more = ["*", "+", "{1,3}", "{0,2}"]
        times = chance.choice(few if pattern.startswith("(") else few + more)
        count = {"": 1, "?": 1, "*": 2, "+": 2, "{2}": 2, "{1,3}": 3, "{0,2}": 0}[times]
        parts.append((pattern + times, text * count))
    return "".join(p for p, _ in parts), "".join(t for _, t in parts)


def _atom(chance: random.Random, depth: int) -> tuple[str, str]:
    kind = chance.randrange(8 if depth else 6)
    if kind == 0:
        char = chance.choice("abz09é .+")
        return re.escape(char), char
    if kind == 1:
        return chance.choice([("[a-f0-3]", "c"), ("[^ab\\n]", "c"), ("[é-ü]", "ê"), ("[-x]", "-")])
    if kind == 2:
        return r"[0-9]", "7"
    if kind == 3:
        return r"\w", "w"
    if kind == 4:
        return ".", "!"
    if kind == 5:
        return r"\s", "\t"
    pairs = [random_pattern(chance, depth - 1) for _ in range(chance.randint(1, 3))]
    return "(?:" + "|".join(pattern for pattern, _ in pairs) + ")", chance.choice(pairs)[1]


def schemas(seed: int, count: int) -> list[tuple[dict[str, Any], Any]]:
    """`count` of them that differ."""
    chance = random.Random(seed)
    found: dict[str, tuple[dict[str, Any], Any]] = {}
    while len(found) < count:
        pair = random_schema(chance)
        found.setdefault(json.dumps(pair[0]), pair)
    return list(found.values())


def patterns(seed: int, count: int) -> list[tuple[str, str]]:
    """`count` of them that differ."""
    chance = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        pattern, text = random_pattern(chance)
        found.setdefault(pattern, text)
    return list(found.items())
