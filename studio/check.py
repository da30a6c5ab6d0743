"""Lint, type-check and test the page's sources: eslint, tsc, vitest. Part of `make lint`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from glassbox.core.errors import UserError
from glassbox.studio.building import find_node

HERE = Path(__file__).resolve().parent


def main() -> int:
    try:
        node, npm = find_node()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}
    locked, installed = HERE / "package-lock.json", HERE / "node_modules/.package-lock.json"
    has_all = (HERE / "node_modules/vitest/package.json").exists()
    commands = [["run", "--silent", "lint"], ["run", "--silent", "test"]]
    if not (has_all and installed.stat().st_mtime >= locked.stat().st_mtime):
        commands.insert(0, ["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
    for command in commands:
        status = subprocess.run([*npm, *command], cwd=HERE, env=environment).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
