"""What a subcommand says of an error."""

import errno

from recurrent_attention._errors import printable

_FULL = (
    " Make room on the disk, where the output goes, and in /dev/shm, through which workers "
    "(--num-workers) hand over pictures."
)


def sentence_of(error: Exception) -> str:
    """Return what an error says, in one line that names the file, also where the system raised it.

    Example:
        >>> sentence_of(PermissionError(13, "Permission denied", "birds/1.png"))
        'Expected to open birds/1.png, but got: Permission denied.'
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return printable(f"Expected to open {error.filename}, but got: {error.strerror}.")
    if isinstance(error, OSError) and error.strerror:
        hint = _FULL if error.errno == errno.ENOSPC else ""
        return printable(f"Expected to finish, but got: {error.strerror}.{hint}")
    return printable(error)
