"""HTML parsed in a process of its own, which a hostile page may crash or stall without harm.

The parser is C code that takes time quadratic in the depth of a page and in the attributes of an
element, and no signal handler of Python's interrupts it. Small pages are parsed in place.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import subprocess
import sys
from typing import IO, Any

from glassbox.data.curation.html_text import html_to_text

SMALL = 8192
"""Characters of a page that may be anything and still takes milliseconds."""
PAGE_SECONDS = 10.0
PAGE_MEMORY = 2 << 30


class PageFailed(ValueError):
    """Why there is no text of a page."""


class PageParser:
    """`html_to_text` with a limit of seconds and memory; its process starts with the first large page.

    Raises PageFailed where a page takes longer, needs more memory, or crashes the parser; the next
    page gets a new process.
    """

    def __init__(self, seconds: float = PAGE_SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "_process": None}

    def __del__(self) -> None:
        self.close()

    def __call__(self, html: str, *, main_only: bool = True) -> tuple[str, str]:
        """The text of a page and its title."""
        if len(html) <= SMALL:
            return html_to_text(html, main_only=main_only)
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            _send(process.stdin, (html, main_only, self.seconds))
            done, content = _receive(process.stdout)
        except (EOFError, OSError):
            self.close()
            raise PageFailed(
                f"the parser was ended: more than {self.seconds:g} seconds or "
                f"{PAGE_MEMORY >> 30} GB, or a crash"
            ) from None
        except BaseException:  # a reply that nobody waited for would be taken for the next page's
            self.close()
            raise
        if not done:
            raise PageFailed(content)
        return content[0], content[1]

    def _start(self) -> subprocess.Popen[bytes]:
        # the same modules as here, and none of the folder where the command was given
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            "from glassbox.data.curation.page_parser import serve; serve()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # a Ctrl-C is the parent's to handle
            start_new_session=True,
        )
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()


def _send(stream: IO[bytes], content: Any) -> None:
    data = json.dumps(content).encode("ascii")
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    data = stream.read(int.from_bytes(head, "little"))
    return json.loads(data)


def serve() -> None:
    """Parse pages from standard input to standard output until it ends."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (PAGE_MEMORY, PAGE_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "w", encoding="ascii") as nowhere:
        while True:
            try:
                html, main_only, seconds = _receive(source)
            except EOFError:
                return
            # a thread of C code that ends the process, whoever holds the interpreter's lock
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            try:
                answer: tuple[bool, Any] = True, html_to_text(html, main_only=main_only)
            except (RecursionError, MemoryError, ValueError) as error:
                answer = False, f"the parser failed: {type(error).__name__}"
            faulthandler.cancel_dump_traceback_later()
            _send(target, answer)
