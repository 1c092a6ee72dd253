"""What changes logits before a token is chosen: one callable module per rule, pure functions of their arguments.

The definitions are those of transformers 4.57.6, in its order. A user's own processor is any `eqx.Module` of the form
that `form` describes.
"""

from .chain import build as build
from .form import Length as Length
from .form import Logits as Logits
from .form import Prefix as Prefix
from .form import Processor as Processor
from .form import apply as apply
from .sampling_filters import Epsilon as Epsilon
from .sampling_filters import Eta as Eta
from .sampling_filters import MinP as MinP
from .sampling_filters import Temperature as Temperature
from .sampling_filters import TopK as TopK
from .sampling_filters import TopP as TopP
from .sampling_filters import Typical as Typical
from .token_rules import DecayingLength as DecayingLength
from .token_rules import Finite as Finite
from .token_rules import ForcedToken as ForcedToken
from .token_rules import MinLength as MinLength
from .token_rules import MinNewTokens as MinNewTokens
from .token_rules import NGrams as NGrams
from .token_rules import Normalised as Normalised
from .token_rules import RepetitionPenalty as RepetitionPenalty
from .token_rules import SequenceBias as SequenceBias
from .token_rules import SourceNGrams as SourceNGrams
from .token_rules import SourcePenalty as SourcePenalty
from .token_rules import Suppressed as Suppressed
from .token_rules import SuppressedAt as SuppressedAt
