"""A checkpoint's files: where they lie, what is in them, and how they are written."""


class MissingFileError(FileNotFoundError, ValueError):
    """A checkpoint, or a file of one, is not where it was said to be."""
