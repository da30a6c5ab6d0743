"""What adding one more of a kind touches: files and lines outside its own, counted on a member that is there.

    python tests/support/additions.py

Of a member (the mixer Retention, the optimizer Lion, ...) every line of the package is counted that
names what its own file defines, or has its `kind` as a string, in another file.
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "glassbox"


@dataclass(frozen=True)
class Member:
    """One of a kind, which stands for the next to be added.

    names: what of its file is the member, where the file has others or helpers beside it; None: all.
    unrelated: files in which the string is the name of something else, such as a data set.
    """

    what: str
    file: str
    kind: str
    names: tuple[str, ...] | None = None
    unrelated: tuple[str, ...] = ()


MEMBERS = (
    Member("mixer", "layers/retention.py", "retention"),
    Member("feed-forward", "layers/feedforward.py", "relu2", ("Relu2", "Relu2Layer")),
    Member("adapter", "adapters/bottleneck.py", "bottleneck"),
    Member("optimizer", "optim/lion.py", "lion"),
    Member("schedule", "optim/schedules/cosine_restarts.py", "cosine_restarts"),
    Member("preference loss", "tuning/preference/reference_free.py", "cpo", ("CpoConfig",)),
    Member("policy method", "tuning/policy/rloo.py", "rloo", ("RlooConfig", "Rloo", "RlooSource")),
    Member(
        "grader",
        "tuning/grading/rules.py",
        "gsm8k",
        ("Gsm8k", "Gsm8kAnswer"),
        ("data/catalogue.py", "evaluation/tasks/builtin/gsm8k.py"),
    ),
    Member("evaluation task", "evaluation/tasks/builtin/piqa.py", "piqa", ()),
    Member("family", "models/families/smollm3.py", "smollm3", ("SMOLLM3",)),
    Member("curation step", "data/curation/simhash.py", "simhash"),
    Member("CLI command", "cli/upcycle.py", "upcycle", ()),
)


def defined(path: Path) -> set[str]:
    """The public names at the top of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def places(member: Member, source: Path = SOURCE) -> dict[str, list[int]]:
    """The lines of each other file that name the member."""
    own = source / member.file
    names = defined(own) if member.names is None else set(member.names)
    assert names <= defined(own), f"{member.file} does not define {sorted(names - defined(own))}"
    found: dict[str, list[int]] = {}
    for path in sorted(source.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path == own or path.relative_to(source).as_posix() in member.unrelated:
            continue
        if not (member.kind in text or any(name in text for name in names)):
            continue
        lines = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            named = token.type == tokenize.NAME and token.string in names
            if named or token.string in (f'"{member.kind}"', f"'{member.kind}'"):
                lines.add(token.start[0])
        if lines:
            found[path.relative_to(source).as_posix()] = sorted(lines)
    return found


def main() -> None:
    """Print the table."""
    print(f"{'adding':16}  {'counted on':40}  files  lines  where")
    for member in MEMBERS:
        found = places(member)
        count = sum(len(lines) for lines in found.values())
        where = ", ".join(f"{name}:{','.join(map(str, lines))}" for name, lines in found.items())
        print(f"{member.what:16}  {member.file:40}  {len(found):5}  {count:5}  {where}")


if __name__ == "__main__":
    main()
