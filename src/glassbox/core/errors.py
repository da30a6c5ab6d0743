"""The one exception that means: the user can mend this, and the message says how."""


class UserError(ValueError):
    """Something the user gave is wrong. The message names the key, the value and the remedy.

    The command line prints it as a single line, without a traceback, and exits with 2.
    """
