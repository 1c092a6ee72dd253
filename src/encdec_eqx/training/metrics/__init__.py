"""Metrics of generated text against references, all in percent, by name: `METRICS["rouge1"](predictions, references)`.

Plain strings in, numbers out; must not know models or tokenizers.
"""

from .edits import edit_distance as edit_distance
from .table import METRICS as METRICS
from .table import Metric as Metric
from .table import metric as metric
from .table import score as score
