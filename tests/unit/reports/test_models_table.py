"""What `glassbox models` prints fits the terminal and cuts no name, however narrow it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from glassbox.models.families import FAMILIES
from glassbox.reports.models_table import FULL_WIDTH, models_tables, parts


def printed(width: int) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    console.print(models_tables(console.width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, FULL_WIDTH - 1, FULL_WIDTH])
def test_every_name_is_whole_and_no_line_too_long(width: int) -> None:
    text = printed(width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert "…" not in text
    lines = text.splitlines()
    words = set(text.replace(",", " ").replace(":", " ").split())
    for family in FAMILIES:
        assert family.model_type in words
        for preset, config in family.presets.items():
            # a preset may be called as its family is, which stands before it
            line = [line for line in lines if preset in line.split()][-1]
            assert str(config.num_layers) in line.split()
            assert str(config.hidden_size) in line.split()
            if width < FULL_WIDTH:
                for kinds in parts(config).values():
                    assert set(kinds.split()) <= words, (preset, kinds)


def test_narrow_one_line_a_preset() -> None:
    presets = sum(len(family.presets) for family in FAMILIES)
    assert len(printed(60).splitlines()) < 2.6 * presets
