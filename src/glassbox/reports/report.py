"""One page about a run: what was trained, how it went, how good it is, how to go on."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from glassbox.core.errors import UserError
from glassbox.core.files import write_text
from glassbox.reports.page import page
from glassbox.reports.run_data import read_run
from glassbox.reports.table import comparison_table

__all__ = ["comparison_table", "render_report", "write_report"]

# what HTML cannot hold: control characters but tab and line feed, and halves of surrogate pairs
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_report(folder: Path | str) -> Path:
    """Write `folder`/report.html and return its path.

    Raises UserError where the folder is no run's. Whatever a run has not left behind is left out,
    and the page says so.
    """
    path = Path(folder) / "report.html"
    write_text(path, render_report(folder))
    return path


def render_report(folder: Path | str) -> str:
    """The page of a quickstart's folder or of one training run's, finished or not.

    It is one file: styles and drawings inside, no script, and nothing fetched from anywhere. All
    that the model wrote is escaped.
    """
    folder = Path(folder)
    run = read_run(folder)
    if run is None:
        raise UserError(
            f"'{folder}' is no run: it holds neither metrics.jsonl nor quickstart.json; "
            "give the folder that `glassbox train` or `glassbox quickstart` wrote"
        )
    files = resources.files("glassbox.reports") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files / "report.html.j2").read_text(encoding="utf-8"))
    css = Markup((files / "report.css").read_text(encoding="utf-8"))
    return UNPRINTABLE.sub("\ufffd", template.render(page=page(run), css=css))
