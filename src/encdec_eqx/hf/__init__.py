"""Hugging Face's format: configs, tensor names and files, read and written; the families are data in it."""

from .files import MissingFileError as MissingFileError
from .report import LoadReport as LoadReport
