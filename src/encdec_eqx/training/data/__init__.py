"""Data for training: pairs from files or iterables, encoded examples, and batches of few shapes."""

from .batch_shapes import Shape as Shape
from .batches import Batches as Batches
from .batches import Epoch as Epoch
from .examples import Example as Example
from .examples import Examples as Examples
from .examples import encode_pairs as encode_pairs
from .pairs import pairs_from as pairs_from
from .pairs import read_pairs as read_pairs
from .records import BadRecord as BadRecord
from .records import BadRecordsError as BadRecordsError
from .records import OnBad as OnBad
from .records import Pairs as Pairs
from .records import Record as Record
from .streamed_batches import StreamedBatches as StreamedBatches
from .streams import PairStream as PairStream
from .streams import StreamedExamples as StreamedExamples
from .streams import encode_stream as encode_stream
from .streams import stream_pairs as stream_pairs
