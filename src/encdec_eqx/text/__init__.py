"""Text in, text out: the two tokenizers of a pair, and the pair together with them.

`tokenizers` is imported when a tokenizer is first made or read.
"""

from .constraints_on_text import constrain_to_pattern as constrain_to_pattern
from .constraints_on_text import constrain_to_texts as constrain_to_texts
from .display_tokens import display_tokens as display_tokens
from .text_to_text import TextResult as TextResult
from .text_to_text import TextToText as TextToText
from .texts import Encoded as Encoded
from .texts import report_cut as report_cut
from .tokenizer_files import byte_tokenizer as byte_tokenizer
from .tokenizer_pair import TokenizerPair as TokenizerPair
