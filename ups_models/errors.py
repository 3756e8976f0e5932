"""The exceptions of the project: each says what is wrong, where, and what to do."""


class UPSError(Exception):
    """Base of every error we raise on purpose; the CLI prints it as one line."""

    exit_code = 1


class BadInput(UPSError):
    """The user can cure it: a config, a flag, a file."""

    exit_code = 2


class ConfigError(BadInput):
    """A config file or an override that does not describe a run."""


class DataError(BadInput):
    """A data file that is missing, damaged or of another family."""


class CheckpointError(BadInput):
    """A checkpoint that is missing, damaged, or no checkpoint at all."""


class ArchitectureMismatch(CheckpointError, ValueError):
    """A checkpoint trained with another architecture than the config asks for."""


class StorageError(UPSError):
    """A file that could not be written; what was there before is still whole."""


class RunLost(UPSError):
    """The run directory was removed or taken over while a process worked in it."""


class TrainingDiverged(UPSError):
    """A loss or a gradient that is not finite; the optimiser has not stepped on it."""


class Preempted(UPSError):
    """The process was asked to stop; the stage is saved and resumes with --auto-resume."""

    exit_code = 75
