"""Every error that autoseg raises on purpose, with the exit code its command ends with.

AutosegError                 1  a bug if it is ever raised bare
  UsageError                 2  the command was called wrongly (unknown dataset, field, preset)
  DataError                  3  the user's data is faulty; the message names case and file
  ResourceError              4  disk, memory, file handles
  PartialError               5  some cases failed, the others are done
  ModelError                 6  a model, checkpoint or archive is corrupt or untrusted
  Preempted                 75  asked to stop and be called again; everything done is saved

A message says what was wrong, in which case and file, what was expected, and what to do.
"""


class AutosegError(Exception):
    """Base of all errors that end a command with a message instead of a traceback."""

    exit_code: int = 1


class UsageError(AutosegError):
    """The command or call was wrong; the data was not looked at."""

    exit_code = 2


class DataError(AutosegError):
    """The user's data cannot be used as it is."""

    exit_code = 3


class ResourceError(AutosegError):
    """The machine has too little of something: disk, memory, file handles."""

    exit_code = 4


class PartialError(AutosegError):
    """Some cases failed and are named; all others were finished."""

    exit_code = 5


class ModelError(AutosegError):
    """A model, checkpoint or archive is corrupt, foreign or from a newer version."""

    exit_code = 6


class Preempted(AutosegError):  # noqa: N818 - the name says what happened, it is no fault
    """The process was asked to stop; its state is saved and the same command resumes it."""

    exit_code = 75
