"""What a caller may want to catch. Ground floor: imports nothing.

Every error is a ``ValueError`` (or an ``OSError`` where a file is at fault) and its
message names the argument, what was expected, what came, and what to do.
"""


class NonFiniteError(ValueError):
    """A tensor that has to be finite holds NaN or infinity."""


class NotSymmetricError(ValueError):
    """A matrix that has to be symmetric differs from its transpose."""


class ShapeMismatchError(ValueError):
    """Two shapes that have to match do not; nothing is broadcast."""


class UnknownNameError(ValueError):
    """A name is not among those that are known."""


class NotPerSampleError(ValueError):
    """A network's output for one sample depends on chance or on other samples."""


class NoGatesError(ValueError):
    """No ReLU was met while the network ran."""


class OutOfMemoryError(ValueError):
    """The smallest possible piece of the work does not fit the memory given."""


class PartitionError(ValueError):
    """A split of samples over clients is impossible or inconsistent."""


class DataFileError(ValueError):
    """A data file is missing, cut short or damaged."""


class RunFolderError(OSError):
    """A run folder cannot be written, or what it holds cannot be used."""


class TaskError(RuntimeError):
    """A task of an executor was lost, took too long, or was refused."""


class MissingExtraError(ImportError):
    """Something optional is used and not installed; the message says what to do."""
