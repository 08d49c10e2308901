"""The root of every error that PlasmaCloud raises on purpose.

An operator reads the message; a script reads the exit code. A message says what happened, to what, and what to do.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``plasma``. They are part of the interface and do not change."""

    OK = 0
    FAILED = 1  # the command ran and the answer is no: key not found, scenario failed, comparison false
    USAGE = 2  # wrong flags or arguments
    NOT_EXECUTED = 3  # the request failed and certainly changed nothing
    OUTCOME_UNKNOWN = 4  # the request may or may not have been executed
    UNAVAILABLE = 5  # no endpoint answers, or the cluster has no quorum
    CONFIG = 6  # configuration or data directory refused
    STORAGE = 7  # disk full, failed fsync, corruption
    INTERRUPTED = 130  # stopped by the user


class PlasmaError(Exception):
    """Base of all expected errors. ``hint`` tells the operator what to do about it."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(PlasmaError):
    """A setting, an address or a data directory cannot be used."""

    exit_code = ExitCode.CONFIG


class StorageError(PlasmaError):
    """The disk refused, or what it returned is not what was written."""

    exit_code = ExitCode.STORAGE
