"""Pictures: the losses and metrics of runs, and what a target attends to in its source.

matplotlib is imported when a picture is drawn, and only its figures are used, never pyplot, so that a user's own
figures and backend are left alone.
"""

from .curves import compare_curves as compare_curves
from .curves import loss_curve as loss_curve
from .curves import series as series
from .curves import smoothed as smoothed
from .heat_map import alignment as alignment
