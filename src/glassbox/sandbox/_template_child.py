"""The program that `template_process.py` starts: it walls itself in, then renders what it is sent.

Arguments: the folders that hold Glassbox and Jinja, as JSON, and the bytes of memory it may have.
Requests and replies are eight bytes of length and that many of JSON (a request) or of two letters
and text (a reply: `+` text or `-` why not; then `1` if another request may follow, else `0`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

MAX_SECONDS = 20  # after which the system ends us, should the parent be gone
MAX_COMPILED = 32
WARM_UP = (
    "{% set ns = namespace(n=0) %}{% macro m(x) %}{{ x|trim|upper }}{% endmacro %}"
    "{% for k in [3, 1]|sort %}{% set ns.n = ns.n + k %}{{ loop.index }}{{ m('a') }}{% endfor %}"
    "{{ {'a': 1}|tojson(indent=1) }}{{ strftime_now('%d %b %Y %p') }}{{ 'a'|indent }}{{ 1|round }}"
    "{{ '%s' % 1 }}{{ '{}'.format(1) }}{{ [{'a': 1}]|groupby('a')|list }}{{ '<b>'|striptags }}"
    "{% generation %}{{ 'a b'.split()|join('-') }}{% endgeneration %}"
)


def main() -> None:
    roots, memory = json.loads(sys.argv[1]), int(sys.argv[2])
    sys.path[:0] = roots
    import signal

    from glassbox.core.errors import UserError
    from glassbox.sandbox import _walls, templates

    sandbox = templates.TemplateSandbox()
    sandboxes = {"chat": sandbox, "task": templates.TemplateSandbox("task")}
    sandbox.render_guarded(sandbox.compile_guarded(WARM_UP), {})  # imports what is imported late
    for source in ("{{ 1 / 0 }}", "{{ ''.__class__ }}", "{{ a.b.c }}"):
        with contextlib.suppress(UserError):
            sandbox.render_guarded(sandbox.compile_guarded(source), {})
    # opened while files can be; the peak that getrusage knows may be that of whoever started us
    statm = os.open("/proc/self/statm", os.O_RDONLY) if os.path.exists("/proc/self/statm") else None
    page = os.sysconf("SC_PAGE_SIZE")
    libc = _walls.load_libc()
    limits = {"RLIMIT_AS": memory, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0}
    _walls.set_limits(limits)
    if os.geteuid() == 0:
        _walls.become(65534)
    if libc is not None:
        _walls.drop_capabilities(libc)
        _walls.restrict_files(libc, [], [])
        _walls.filter_system_calls(libc, own_files=False)
    send("+1", "ready")

    compiled: dict[tuple[str, str], Any] = {}
    while True:
        header = read_exactly(8, at_end=b"")
        if not header:
            return
        signal.alarm(MAX_SECONDS)
        try:
            request = json.loads(read_exactly(int.from_bytes(header, "little")))
            source, dialect = request["source"], request["dialect"]
            sandbox = sandboxes[dialect]
            if (dialect, source) not in compiled:
                if len(compiled) >= MAX_COMPILED:
                    compiled.clear()
                compiled[dialect, source] = sandbox.compile_guarded(source)
            text = ""
            if request["variables"] is not None:
                text = sandbox.render_guarded(compiled[dialect, source], request["variables"])
            status = "+"
        except UserError as error:
            status, text = "-", str(error)
        except MemoryError:
            status, text = "-", "chat_template failed: MemoryError"
        request = None
        held = 0 if statm is None else int(os.pread(statm, 99, 0).split()[1]) * page
        # what is freed may stay with the process: behind a large one the next request gets another
        last = held > memory // 2 or text.endswith("MemoryError")
        try:
            send(status + ("0" if last else "1"), text)
        except MemoryError:
            last = True
            send("-0", "chat_template failed: MemoryError")
        signal.alarm(0)
        if last:
            return


def send(status: str, text: str) -> None:
    data = (status + text).encode("utf-8", "surrogatepass")
    view = memoryview(len(data).to_bytes(8, "little") + data)
    while view:
        view = view[os.write(1, view) :]


def read_exactly(size: int, *, at_end: bytes | None = None) -> bytes:
    parts: list[bytes] = []
    left = size
    while left:
        part = os.read(0, min(left, 1 << 20))
        if not part:
            if at_end is not None and not parts:
                return at_end
            os._exit(1)
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
