"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """Something the user gave cannot be used: what was given, what is allowed, what to do, in one or two sentences.

    `cli.py` prints the text alone, without a stack trace, and exits with status 2. Everything else that escapes is a
    bug of ours.
    """
