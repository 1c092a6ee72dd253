"""The scanned layout: layers stacked and run by `lax.scan`, the fastest and smallest to train and to compile."""

from .layouts import Layout as Layout
from .layouts import ScannedStack as ScannedStack
from .layouts import changes as changes
from .layouts import map_stacks as map_stacks
from .layouts import rescan as rescan
from .layouts import to_layout as to_layout
from .layouts import unroll as unroll
from .segment import Remat as Remat
