"""What goes wrong in training, found before it costs a night: `diagnose`, and the checks that cost nothing.

Every check is a small function that says what it measures and which threshold it holds that against, and why.
"""

from .checks import check_before_training as check_before_training
from .checks import diagnose as diagnose
from .finding import Diagnosis as Diagnosis
from .finding import Finding as Finding
