"""Metrics of generated text against references, in percent, by name: `METRICS["rouge1"](predictions, references)`."""

from .scores import METRICS as METRICS
from .scores import Metric as Metric
from .scores import edit_distance as edit_distance
from .scores import metric as metric
from .scores import score as score
