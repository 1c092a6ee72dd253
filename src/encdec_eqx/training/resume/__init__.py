"""Checkpoints of a run: all that is needed to go on as if nothing had happened, written whole or not at all.

Not the format of finished models, which is `save_pretrained`'s. Must not know data, loops or command lines.
"""

from .errors import CheckpointNotWrittenError as CheckpointNotWrittenError
from .errors import FolderInUseError as FolderInUseError
from .errors import NoUsableCheckpointError as NoUsableCheckpointError
from .run import Restored as Restored
from .run import RunCheckpoints as RunCheckpoints
