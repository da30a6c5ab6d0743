"""User-defined data sources: `kind: python, path: my.py:rows`.

`path` names a function that is called with the options and returns an iterable, such as a generator:

    def rows(*, count=100):
        for number in range(count):
            yield {"messages": [{"role": "user", "content": f"{number} + 1?"},
                                {"role": "assistant", "content": str(number + 1)}]}

Text is read from strings or from mappings with a key `text`; every other stage takes mappings of
the forms that its JSON lines have. The function is called anew for each pass over the data and
must yield the same items in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec, check_call, explained, load_object, source_digest


class PythonSource(PythonSpec):
    """A user-defined data source: a callable (**options) that returns an iterable of items."""

    text_field: str | None = Field(
        None, description="key of the text; a dot separates nested keys; null: detected"
    )

    def __str__(self) -> str:
        options = f"({json.dumps(self.options, default=str)})" if self.options else ""
        return f"{self.path}{options}"

    def check(self) -> None:
        """Raise UserError unless `path` can be loaded and called with the options."""
        check_call(load_object(self.path), "data source", self.path, [], self.options)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield (place, item), the place for messages. Raises UserError if the code fails."""
        found = self.make("data source")
        try:
            iterator = iter(found)
        except TypeError:
            raise UserError(
                f"data source '{self.path}' gave a {type(found).__name__}, which cannot be iterated; "
                "yield strings or mappings"
            ) from None
        if isinstance(found, str | bytes | Mapping):
            raise UserError(
                f"data source '{self.path}' gave a single {type(found).__name__}; yield items instead"
            )
        number = 0
        while True:
            with explained("data source", self.path):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            number += 1
            yield f"data source '{self}' item {number}", item

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (place, row), each item a mapping. Raises UserError for other items."""
        for place, item in self.items():
            if not isinstance(item, Mapping):
                raise UserError(
                    f"{place}: a {type(item).__name__}; each item is a mapping with keys"
                )
            yield place, dict(item)

    def documents(self) -> Iterator[str]:
        """Yield the text of each item that has any. Raises UserError for items without a text."""
        from glassbox.data.curation.pieces import split_row

        for place, item in self.items():
            text = item
            if isinstance(item, Mapping):
                found = split_row(item, self.text_field)
                if isinstance(found, str):
                    raise UserError(f"{place}: {found}; give a string, or a mapping with 'text'")
                text = found[0]
            if not isinstance(text, str):
                raise UserError(
                    f"{place}: a {type(item).__name__}; give a string, or a mapping with 'text'"
                )
            if text:
                yield text

    def digest(self) -> str:
        """Hash of the file that `path` names, or "package"."""
        return source_digest(self.path) or "package"


def _form(value: Any) -> str:
    return "PythonSource" if isinstance(value, Mapping | PythonSource) else "str"


DataPath = Annotated[
    Annotated[str, Tag("str")] | Annotated[PythonSource, Tag("PythonSource")], Discriminator(_form)
]
"""A recipe's name of data, as `find_data` takes it, or `{kind: python, path: my.py:rows}`."""
