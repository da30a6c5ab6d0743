"""The terminal's side of a chat: read a line, stream the answer, a few commands."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator

from glassbox.core.errors import UserError
from glassbox.inference import ChatSession

HELP = """/help            this list
/history         the conversation so far
/undo            forget the last question and answer
/reset           forget everything
/system TEXT     set the system message (and begin anew)
/multi           type several lines; a line of a single dot ends them
/quit            leave (so does Ctrl-D)"""


def run_terminal(
    session: ChatSession, *, name: str, lines: Iterable[str], interactive: bool
) -> None:
    """Answer line after line until the input ends; answers go to standard output, notes to error.

    Ctrl-C breaks off an answer, not the chat.
    """
    if interactive:
        print(f"chatting with {name}; /help for commands, Ctrl-D to leave", file=sys.stderr)
    source = _prompted(lines, interactive)
    for line in source:
        text = line.strip()
        if not text:
            continue
        if text == "/multi":
            text = "\n".join(_until_dot(source))
        elif text.startswith("/"):
            if _command(session, text):
                return
            continue
        _answer(session, text)


def _prompted(lines: Iterable[str], interactive: bool) -> Iterator[str]:
    if not interactive:
        yield from lines
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - line editing and history for input()
    while (line := _ask()) is not None:
        yield line


def _ask() -> str | None:
    """One typed line; None at the end of the input, an empty one for Ctrl-C."""
    try:
        return input("> ")
    except EOFError:
        print(file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print("\n(Ctrl-D leaves)", file=sys.stderr)
        return ""


def _until_dot(source: Iterator[str]) -> Iterator[str]:
    for line in source:
        if line.strip() == ".":
            return
        yield line.rstrip("\n")


def _answer(session: ChatSession, text: str) -> None:
    try:
        stream = session.send(text)
        try:
            for piece in stream:
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            close = getattr(stream, "close", None)
            if close is not None:
                close()
            print(" [broken off]", file=sys.stderr)
        sys.stdout.write("\n")
        sys.stdout.flush()
    except UserError as error:
        print(f"glassbox: {error}", file=sys.stderr)


def _command(session: ChatSession, text: str) -> bool:
    """Carry out a /command; True to leave."""
    word, _, rest = text.partition(" ")
    if word in ("/quit", "/exit", "/q"):
        return True
    if word == "/help":
        print(HELP, file=sys.stderr)
    elif word == "/history":
        for message in session.history:
            print(f"{message['role']}: {message['content']}", file=sys.stderr)
    elif word == "/undo":
        session.undo()
        print("(the last turn is forgotten)", file=sys.stderr)
    elif word == "/reset":
        session.reset()
        print("(everything is forgotten)", file=sys.stderr)
    elif word == "/system":
        session.system = {"role": "system", "content": rest} if rest else None
        session.reset()
        print("(a new conversation)", file=sys.stderr)
    else:
        print(f"no command {word}; /help lists them", file=sys.stderr)
    return False
