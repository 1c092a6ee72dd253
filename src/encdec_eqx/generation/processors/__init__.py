"""What changes logits before a token is chosen: one callable module a rule, pure functions of their arguments.

The definitions are those of transformers 4.57.6, in its order. A user's own processor is any `eqx.Module` of the form
that `_base` describes. Must not know: models, caches, loops.
"""

from ._base import Length as Length
from ._base import Logits as Logits
from ._base import Prefix as Prefix
from ._base import Processor as Processor
from .chain import apply as apply
from .chain import build as build
from .lengths import DecayingLength as DecayingLength
from .lengths import MinLength as MinLength
from .lengths import MinNewTokens as MinNewTokens
from .numbers import Finite as Finite
from .numbers import Normalised as Normalised
from .repetition import NGrams as NGrams
from .repetition import RepetitionPenalty as RepetitionPenalty
from .repetition import SourceNGrams as SourceNGrams
from .repetition import SourcePenalty as SourcePenalty
from .shares import Epsilon as Epsilon
from .shares import Eta as Eta
from .shares import MinP as MinP
from .shares import Temperature as Temperature
from .shares import TopK as TopK
from .shares import TopP as TopP
from .shares import Typical as Typical
from .words import ForcedToken as ForcedToken
from .words import SequenceBias as SequenceBias
from .words import Suppressed as Suppressed
from .words import SuppressedAt as SuppressedAt
