"""Checkpoints of a run: all that is needed to go on as if nothing had happened, written whole or not at all.

Not the format of finished models, which is `save_pretrained`'s.
"""

from .checkpoint_files import CheckpointNotWrittenError as CheckpointNotWrittenError
from .checkpoint_files import FolderInUseError as FolderInUseError
from .checkpoint_files import NoUsableCheckpointError as NoUsableCheckpointError
from .run_checkpoints import Restored as Restored
from .run_checkpoints import RunCheckpoints as RunCheckpoints
