"""The errors that a user can cause, each with the exit code that the command line gives it.

Every message is one sentence that names the file, key or option at fault and says what to do.
"""

from __future__ import annotations


class MovinetError(Exception):
    """Base class of all errors that this package raises on purpose."""

    exit_code = 1


class UsageError(MovinetError, ValueError):
    """A wrong name, option, shape or combination of arguments."""

    exit_code = 2


class VideoError(MovinetError, ValueError):
    """A source that cannot be opened or holds no frame that decodes."""

    exit_code = 3


class WeightsError(MovinetError, ValueError):
    """A weights file that is truncated, corrupt, hostile or of another model."""

    exit_code = 4


class DownloadError(MovinetError, OSError):
    """No source of a published file answered with the right bytes."""

    exit_code = 5
