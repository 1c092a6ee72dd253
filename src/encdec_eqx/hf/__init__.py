"""Hugging Face's format: configs, tensor names and files, read and written; the families are data in it."""

from .files import MissingFileError as MissingFileError
from .model_card import CardData as CardData
from .report import LoadReport as LoadReport
