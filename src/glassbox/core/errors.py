"""`UserError`, the exception for errors that the user can fix; its message says how."""

from __future__ import annotations

import errno

_LONGEST = 2000


class UserError(ValueError):
    """An error in the user's input. The message names the key, the value and the remedy.

    The command line prints it as a single line, without a traceback, and exits with 2. What cannot
    be printed, such as a line break in a name that a file gives, is escaped; of a message of more
    than 2,000 characters, which repeats a file's content, the middle is left out.

    >>> print(UserError("no tensor 'a\\nb'"))
    no tensor 'a\\nb'
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        parts = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        super().__init__("".join(parts))


def disk_is_full(error: BaseException) -> bool:
    """Whether an error means that the disk is full or the user's quota is used up."""
    # safetensors, written in Rust, tells the number in words alone
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or f"os error {errno.ENOSPC}" in str(error)


def explain_system(error: OSError) -> UserError | None:
    """Turn an operating-system error that the user can fix into a UserError; None for any other.

    >>> str(explain_system(PermissionError(13, "Permission denied", "runs/a")))
    "'runs/a': Permission denied; choose a place that you may write to and read from"
    """
    where = f"'{error.filename}': " if error.filename else ""
    if disk_is_full(error):
        return UserError(
            f"{where}the disk is full ({error.strerror}); free some space (TMPDIR says where temporary files "
            "go) and run the same command again"
        )
    if error.errno == errno.EFBIG:
        return UserError(
            f"{where}{error.strerror}; the file system, or a limit (ulimit -f), holds no file of that "
            "size: choose another place, or write smaller files"
        )
    if where and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            f"{where}{error.strerror}; choose a place that you may write to and read from"
        )
    return None
