"""The one exception class of checkpoints. Knows nothing else."""


class MissingFileError(FileNotFoundError, ValueError):
    """A checkpoint, or a file of one, is not where it was said to be."""
