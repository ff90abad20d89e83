"""The one exception that the command line turns into a message without a traceback."""


class UserError(Exception):
    """Something that the user can put right; the text says what and how."""
