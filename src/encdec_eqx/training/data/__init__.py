"""Data for training: pairs from files or iterables, encoded examples, and batches of few shapes.

Must not know models or optimisers.
"""

from .batches import Batches as Batches
from .batches import Epoch as Epoch
from .encode import encode_pairs as encode_pairs
from .examples import Example as Example
from .examples import Examples as Examples
from .read import pairs_from as pairs_from
from .read import read_pairs as read_pairs
from .records import BadRecord as BadRecord
from .records import BadRecordsError as BadRecordsError
from .records import OnBad as OnBad
from .records import Pairs as Pairs
from .records import Record as Record
from .shapes import Shape as Shape
