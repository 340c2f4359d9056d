"""What a subcommand says of an error."""

from recurrent_attention._errors import printable


def sentence_of(error: Exception) -> str:
    """Return what an error says, in one line that names the file, also where the system raised it.

    Example:
        >>> sentence_of(PermissionError(13, "Permission denied", "birds/1.png"))
        'Expected to open birds/1.png, but got: Permission denied.'
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return printable(f"Expected to open {error.filename}, but got: {error.strerror}.")
    return printable(error)
