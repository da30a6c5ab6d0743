"""User-defined curation steps: `kind: python, path: my.py:step`.

`path` names a function called with (record, **options), or a class called with the options whose
instance is a `RecordStep`, a `CorpusStep` or a `RevisingStep` (see `curation.step`):

    from dataclasses import replace
    from glassbox.data.curation.step import Dropped

    def no_shouting(record, *, most=0.3):
        share = sum(map(str.isupper, record.text)) / len(record.text)
        if share > most:
            return Dropped("too many capitals", f"{share:.0%}, at most {most:.0%}")
        return replace(record, text=record.text.strip())
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec, check_call, explained, load_object, source_digest
from glassbox.data.curation.step import (
    CorpusStep,
    Dropped,
    Record,
    RecordStep,
    RevisingStep,
    StepSpec,
)

_WHAT = "steps"
_EXAMPLE = Record("text", "file:1")


class PythonStepSpec(PythonSpec, StepSpec):
    """A user-defined step, counted in reports under the name after the path's colon.

    It must give the same result for the same record: a run that is resumed repeats some records.
    """

    @property
    def counted_as(self) -> str:
        """The name after the colon."""
        return self.object_name

    def build(self) -> RecordStep | CorpusStep | RevisingStep:
        """The step. Raises UserError if `path` cannot be loaded or called."""
        thing = PythonRecordStep(self).thing
        if callable(getattr(thing, "revise", None)):
            _require(thing, ("signature", "decide"), self.path)
            return PythonRevisingStep(self)
        if any(callable(getattr(thing, name, None)) for name in ("signature", "decide")):
            _require(thing, ("signature", "decide"), self.path)
            return PythonCorpusStep(self)
        check_call(thing, _WHAT, self.path, [_EXAMPLE], {})  # an instance, too
        return PythonRecordStep(self)

    def contents(self) -> dict[str, str]:
        """Digest of the user's file: after an edit an unfinished run is not resumed."""
        digest = source_digest(self.path)
        return {} if digest is None else {self.path: digest}


def _require(thing: Any, methods: Sequence[str], path: str) -> None:
    for method in methods:
        if not callable(getattr(thing, method, None)):
            raise UserError(
                f"{_WHAT}: '{path}' gave a {type(thing).__name__} without a method '{method}'; a step "
                "that compares records has signature(record) and decide(signatures)"
            )


@dataclass
class _Loaded:
    """Loads the user's object in each process, since only the spec is pickled."""

    spec: PythonStepSpec
    _thing: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_thing": None}

    @property
    def thing(self) -> Any:
        """The user's function with its options, or the instance of the user's class."""
        if self._thing is None:
            named = load_object(self.spec.path)
            if inspect.isclass(named):
                self._thing = self.spec.make(_WHAT)
            else:
                check_call(named, _WHAT, self.spec.path, [_EXAMPLE], self.spec.options)
                self._thing = functools.partial(named, **self.spec.options)
        return self._thing


class PythonRecordStep(_Loaded):
    """A user-defined RecordStep. Raises UserError for results that are none of the protocol's."""

    def prepare(self) -> None:
        """Load the user's object, and call its own `prepare` if it has one."""
        prepare = getattr(self.thing, "prepare", None)
        if callable(prepare):
            with explained(_WHAT, self.spec.path):
                prepare()

    def __call__(self, record: Record) -> Record | Dropped | Sequence[Record]:
        """The user's result for one record."""
        with explained(f"{_WHAT}: record '{record.id}'", self.spec.path):
            result = self.thing(record)
        several = isinstance(result, list | tuple) and all(isinstance(r, Record) for r in result)
        if not several and not isinstance(result, Record | Dropped):
            raise UserError(
                f"{_WHAT}: '{self.spec.path}' gave {_kind_of(result)} for record '{record.id}'; return "
                "a Record, Dropped(reason) or a list of Records"
            )
        checked: Record | Dropped | Sequence[Record] = result
        return checked


class PythonCorpusStep(_Loaded):
    """A user-defined CorpusStep."""

    def signature(self, record: Record) -> bytes:
        """The user's signature of a record."""
        with explained(f"{_WHAT}: record '{record.id}'", self.spec.path):
            signature = self.thing.signature(record)
        if not isinstance(signature, bytes):
            raise UserError(
                f"{_WHAT}: signature of '{self.spec.path}' gave {_kind_of(signature)} for record "
                f"'{record.id}'; return bytes"
            )
        return signature

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Any]:
        """The user's decisions by id."""
        with explained(_WHAT, self.spec.path):
            decided = dict(self.thing.decide(signatures))
        allowed = (Dropped, bytes) if hasattr(self, "revise") else (Dropped,)
        wanted = " or ".join(one.__name__ for one in allowed)
        for name, one in decided.items():
            if not isinstance(one, allowed):
                raise UserError(
                    f"{_WHAT}: decide of '{self.spec.path}' gave {_kind_of(one)} for record '{name}'; "
                    f"map ids to {wanted}"
                )
        unknown = set(decided).difference(name for name, _ in signatures) if decided else None
        if unknown:
            raise UserError(
                f"{_WHAT}: decide of '{self.spec.path}' names the record '{min(unknown, key=str)}', "
                "which is not among the signatures; use their ids"
            )
        return decided


class PythonRevisingStep(PythonCorpusStep):
    """A user-defined RevisingStep."""

    def revise(self, record: Record, note: bytes) -> Record | Dropped:
        """The user's revision of a record."""
        with explained(f"{_WHAT}: record '{record.id}'", self.spec.path):
            result = self.thing.revise(record, note)
        if not isinstance(result, Record | Dropped):
            raise UserError(
                f"{_WHAT}: revise of '{self.spec.path}' gave {_kind_of(result)} for record "
                f"'{record.id}'; return a Record or Dropped(reason)"
            )
        return result


def _kind_of(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {', '.join({type(one).__name__ for one in value}) or 'nothing'}"
    return f"a {type(value).__name__}"
