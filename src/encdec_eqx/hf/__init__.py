"""Checkpoints: safetensors files and shards, name tables run both ways, Hub or local folders, `LoadReport`."""

from .errors import MissingFileError as MissingFileError
from .report import LoadReport as LoadReport
