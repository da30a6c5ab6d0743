"""Strict configuration: what a recipe may hold, how recipes extend one another, how faults read."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from glassbox.core.config import (
    Spec,
    apply_overrides,
    as_yaml,
    dump_yaml,
    load_recipe,
    merge,
    parse,
    schema_json,
)
from glassbox.core.errors import UserError
from glassbox.core.runs import first_difference
from glassbox.core.yaml12 import load_yaml, read_yaml, write_yaml


class Cosine(Spec):
    kind: Literal["cosine"] = "cosine"
    warmup_steps: int = 0


class Flat(Spec):
    kind: Literal["flat"] = "flat"


class Layer(Spec):
    schedule: Annotated[Cosine | Flat, Field(discriminator="kind")] = Flat()
    width: int = Field(4, gt=0)


class Recipe(Spec):
    lr: float = Field(1e-3, gt=0)
    name: str = "run"
    steps: int | None = None
    layers: tuple[Layer, ...] = (Layer(),)
    schedule: Annotated[Cosine | Flat, Field(discriminator="kind")] = Cosine()
    tags: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _odd(self) -> Recipe:
        if self.name == "odd":
            raise UserError("name = 'odd' is taken; choose another")
        return self


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"nmae": "x"}, ["unknown key 'nmae'", "'x'", "did you mean 'name'?"]),
        ({"zzzzzz": 1}, ["unknown key 'zzzzzz'", "known keys: layers, lr, name"]),
        ({"layers": [{}, {"wdith": 2}]}, ["'layers.1.wdith'", "did you mean 'width'?"]),
        (
            {"schedule": {"kind": "cosine", "warmup": 2}},
            ["unknown key 'schedule.warmup'", "'warmup_steps'?"],
        ),
        (
            {"layers": [{"schedule": {"kind": "cosine", "warmupsteps": 2}}]},
            ["'layers.0.schedule.warmupsteps'", "did you mean 'warmup_steps'?"],
        ),
        ({"schedule": {"kind": "cosin"}}, ["'schedule.kind' = 'cosin'", "did you mean 'cosine'?"]),
        ({"schedule": {"kind": "zzz"}}, ["'zzz'", "choose one of cosine, flat"]),
        ({"schedule": {"warmup_steps": 3}}, ["missing key 'schedule.kind'", "cosine, flat"]),
        ({"lr": "fast"}, ["'lr' = 'fast'"]),
        ({"lr": -1}, ["'lr' = -1", "greater than 0"]),
        ({"lr": math.inf}, ["'lr' = inf", "finite"]),
        ({"lr": math.nan}, ["'lr' = nan"]),
        ({"name": "odd"}, ["name = 'odd' is taken; choose another"]),
        ({1: 2}, ["1"]),
        ([], ["(whole)"]),
    ],
)
def test_a_fault_is_one_line_that_names_key_value_and_remedy(raw: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse(Recipe, raw, where="my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(UserError) as caught:
        parse(Recipe, {"lr": ["x" * 1000] * 1000})
    assert len(str(caught.value)) < 300


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UserError, match=r"lr.*; .*nmae"):
        parse(Recipe, {"nmae": 1, "lr": 0})


def test_a_list_is_not_called_short_for_a_fault_in_its_items() -> None:
    class Inner(Spec):
        width: int = 1

    class Outer(Spec):
        items: tuple[Inner, ...] = Field(min_length=1)

    with pytest.raises(UserError) as caught:
        parse(Outer, {"items": [{"wdith": 2}]}, where="x")
    assert "items.0.wdith" in str(caught.value)
    assert "at least" not in str(caught.value)
    with pytest.raises(UserError, match="give at least 1"):
        parse(Outer, {"items": []}, where="x")


def test_specs_are_frozen_and_compare_by_value() -> None:
    assert parse(Recipe, {}) == Recipe()
    with pytest.raises(ValueError, match="frozen"):
        Recipe().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e5", 1e5),
        ("1E+5", 1e5),
        (".5", 0.5),
        ("-2.", -2.0),
        ("010", 10),
        ("+7", 7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("nan", "nan"),
        ("inf", "inf"),
        ("infinity", "infinity"),
        (".inf", math.inf),
        ("2024-13-99", "2024-13-99"),
        ("2024-01-01", "2024-01-01"),
        ("[1, 2e1, x]", [1, 20.0, "x"]),
        ("{a: 1}", {"a": 1}),
        ("'1e5'", "1e5"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("a=b", "a=b"),
    ],
)
def test_values_of_overrides_and_of_yaml_are_what_people_mean(text: str, value: Any) -> None:
    assert apply_overrides({}, [f"k={text}"]) == {"k": value}
    assert type(apply_overrides({}, [f"k={text}"])["k"]) is type(value)
    assert read_yaml(f"k: {text}", "test") == {"k": value}


def test_whole_floats_are_steps() -> None:
    assert parse(Recipe, apply_overrides({}, ["steps=1e5"])).steps == 100_000
    assert parse(Recipe, apply_overrides({"steps": 3}, ["steps=null"])).steps is None
    assert parse(Recipe, apply_overrides({}, ["name=nan"])).name == "nan"


def test_overrides_reach_into_mappings_and_lists() -> None:
    raw = {"a": {"x": 1, "y": 2}, "blocks": [{"times": 1}, {"times": 2}]}
    changed = apply_overrides(raw, ["a.x=5", "blocks.1.times=9", "new.deep.key=z"])
    assert changed == {
        "a": {"x": 5, "y": 2},
        "blocks": [{"times": 1}, {"times": 9}],
        "new": {"deep": {"key": "z"}},
    }
    assert raw == {"a": {"x": 1, "y": 2}, "blocks": [{"times": 1}, {"times": 2}]}  # untouched


def test_a_kind_override_loses_no_other_override_whatever_the_order() -> None:
    raw = {"schedule": {"kind": "flat"}}
    for words in (
        ["schedule.kind=cosine", "schedule.warmup_steps=7"],
        ["schedule.warmup_steps=7", "schedule.kind=cosine"],
    ):
        assert parse(Recipe, apply_overrides(raw, words)).schedule == Cosine(warmup_steps=7)


@pytest.mark.parametrize("word", ["lr", "=3", ".lr=3", "a..b=3", "a.=3", ""])
def test_what_is_no_override_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="is not an override"):
        apply_overrides({}, [word])


@pytest.mark.parametrize("word", ["blocks.2.times=1", "blocks.x=1", "blocks.-1=1"])
def test_an_item_that_a_list_lacks_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="no item of a list of 2"):
        apply_overrides({"blocks": [1, 2]}, [word])


def test_a_changed_kind_replaces_a_mapping_and_the_same_kind_merges() -> None:
    base = {"s": {"kind": "cosine", "warmup_steps": 3}}
    assert merge(base, {"s": {"kind": "flat"}}) == {"s": {"kind": "flat"}}
    assert merge(base, {"s": {"kind": "cosine", "x": 1}})["s"] == {**base["s"], "x": 1}
    assert merge(base, {"s": None}) == {"s": None}


def test_recipes_extend_in_a_chain(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "c.yaml").write_text("lr: 1\nname: c\nschedule: {kind: cosine, warmup_steps: 1}\n")
    (tmp_path / "sub" / "b.yaml").write_text("extends: ../c.yaml\nname: b\n")
    (tmp_path / "a.yaml").write_text("extends: sub/b.yaml\nschedule: {warmup_steps: 2}\n")
    assert load_recipe(tmp_path / "a.yaml") == {
        "lr": 1,
        "name": "b",
        "schedule": {"kind": "cosine", "warmup_steps": 2},
    }


def test_extended_recipes_are_looked_for_in_further_folders(tmp_path: Path) -> None:
    for name in ("own", "packaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "packaged" / "base.yaml").write_text("lr: 2\n")
    (tmp_path / "own" / "mine.yaml").write_text("extends: base.yaml\n")
    search = [tmp_path / "packaged"]
    assert load_recipe(tmp_path / "own" / "mine.yaml", search=search) == {"lr": 2}
    assert load_recipe("base.yaml", search=search) == {"lr": 2}


def test_a_cycle_of_recipes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: ./a.yaml\n")
    with pytest.raises(UserError, match=r"extends itself \(a.yaml -> b.yaml -> a.yaml\)"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2\n", "line 2: not valid YAML"),
        (b"a: 1\na: 2\n", "key 'a' is given twice"),
        (b"x:\n  a: 1\n  a: 2\n", "line 3: not valid YAML: key 'a' is given twice"),
        (b"a: \xff\n", "is not UTF-8"),
        (b"- 1\n", "holds a list"),
        (b"a: !!int word\n", "not valid YAML"),
        (b"a: !!timestamp 2024-99-99\n", "not valid YAML"),
        (b"a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        (b"a: &x [*x]\n", "not valid YAML"),
        (b"[" * 3000, "nested too deep"),
        (b"a: \x00\n", "not valid YAML"),
        (b"extends: [a, b]\n", "name one recipe file"),
        (b"extends: gone.yaml\n", "no recipe at"),
    ],
)
def test_a_broken_recipe_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_recipe(path)


def test_a_folder_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a recipe file"):
        load_recipe(tmp_path)
    with pytest.raises(UserError, match="check the path"):
        load_recipe(tmp_path / "none.yaml")


def test_an_empty_recipe_and_a_byte_order_mark_are_borne(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"")
    (tmp_path / "b.yaml").write_bytes("\ufefflr: 1\n".encode())
    assert load_yaml(tmp_path / "a.yaml") == {}
    assert load_yaml(tmp_path / "b.yaml") == {"lr": 1}


@given(st.text(max_size=60))
@example("0b_")
@example("=")
@example("? {a: 1}\n: 2")
@example("!!binary x")
@example("<<: 3")
@example("&a : *a")
def test_no_text_raises_anything_but_a_user_error(text: str) -> None:
    with contextlib.suppress(UserError):
        parse(Recipe, read_yaml(text, "here"))
    for word in (text, f"lr={text}"):
        with contextlib.suppress(UserError):
            parse(Recipe, apply_overrides({"lr": 1}, [word]))


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "nmae", "x"]), _values))
def test_no_mapping_raises_anything_but_a_user_error(raw: dict[str, Any]) -> None:
    with contextlib.suppress(UserError):
        parse(Recipe, raw)


@given(_values)
@example(["1e5", "no", "010", "1:30", "~", "", "null", "1_0", "2024-01-01", "<<", "=", ".inf"])
def test_what_is_written_is_read_back(value: Any) -> None:
    again = read_yaml(write_yaml(value), "written")
    assert again == value
    assert repr(again) == repr(value)  # 1, 1.0 and true are equal


def test_a_dumped_spec_is_the_spec_with_every_default() -> None:
    recipe = Recipe(lr=3e-4, name="1e5", schedule=Flat(), tags={"a": "no"})
    assert parse(Recipe, read_yaml(dump_yaml(recipe), "dump")) == recipe
    assert set(read_yaml(dump_yaml(Recipe()), "dump")) == set(Recipe.model_fields)
    # other readers of YAML, of version 1.1, see words as words
    assert yaml.safe_load(dump_yaml(recipe))["name"] == "1e5"


def test_the_schema_knows_every_key_and_forbids_others() -> None:
    schema = json.loads(schema_json(Recipe))
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]["schedule"]["discriminator"]["mapping"]) == {"cosine", "flat"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ("no", "'no'"),
        ([None], "[null]"),
        (1.5, "1.5"),
    ],
)
def test_messages_show_values_as_a_recipe_has_them(value: Any, shown: str) -> None:
    assert as_yaml(value) == shown
    for text in (as_yaml({"a": value}), first_difference({"a": value}, {"a": 7})):
        assert shown in text
        assert "None" not in text
        assert "True" not in text
