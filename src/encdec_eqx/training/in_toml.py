"""Advice for one who wrote a TOML file: calls of the library in errors and findings become the file's words.

The one place that knows both. Messages say what to do in Python; within `speaking_toml` they say it in TOML.
"""

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar

_SPEAKING = ContextVar("speaking_toml", default=False)

_TOKENIZERS = "[model] source_tokenizer and target_tokenizer (each a folder, a tokenizer.json or a Hub id)"
_OWN_TOKENIZERS = "leave [model] source_tokenizer and target_tokenizer out: then those beside the pieces are read."

_WORDS: tuple[tuple[str, str], ...] = (
    (r"(?:model = )?model\.with_special_tokens\((\w+)=\.\.\.\)", r"[model] \1 = <id>"),
    (r"(?:model = )?model\.with_special_tokens\((\w+)=([^()]*)\)", r"[model] \1 = \2"),
    (r"(?:model = )?model\.with_special_tokens\(\.\.\.\)", r"[model] eos_token_id and the like"),
    (r"encode_pairs\(pairs, tokenizers\.for_model\(model\)(?:, \.\.\.)?\)", f"give {_TOKENIZERS}"),
    (r"encode_pairs\(\.\.\., (\w+)=([^()]*)\)", r"[train] \1 = \2"),
    (r"tokenizers\.for_model\(model\) takes it from a model, ", ""),
    (r"TokenizerPair\.from_pretrained\(encoder_folder, decoder_folder\) reads the pieces' own(?: tokenizers)?\.",
     _OWN_TOKENIZERS),
    (r"\(TokenizerPair\.from_pretrained(?: reads it)?\)", "([model] source_tokenizer, target_tokenizer)"),
    (r"\(TokenizerPair\.from_pretrained and data\.Batches do both\)", "(records of text are encoded so)"),
    (r"\(TokenizerPair\.encode_target(?: and data\.Batches do it| does| does it)\)",
     "(records of text are encoded so)"),
    (r": TokenizerPair\.encode_target does\.", ": records of text are ended so."),
    (r"AutoTokenizer\.from_pretrained\(", "in Python, AutoTokenizer.from_pretrained("),
    (r"pass on_bad=\"report\" to go on without them", 'set [data] on_bad_records = "report" to go on without them'),
    (r"on_bad=\"report\"", '[data] on_bad_records = "report"'),
    (r'on_diagnosed_errors="report"', "--ignore-diagnosed-errors ([data] ignore_diagnosed_errors = true)"),
    (r"resume=True \(--resume\)", "--resume ([train] resume = true)"),
    (r"pass eval_data= \(validation_file in a config file\)", "give [data] validation_file"),
    (r"add data=\.\.\. \(--data FILE\)", "add --data FILE, or [data] train_file"),
    (r"source=\.\.\. and target=\.\.\. \(source_column and target_column in a job\)",
     "[data] source_column and target_column"),
    (r"source='([^']*)', target='([^']*)'", r'[data] source_column = "\1", target_column = "\2"'),
    (r"encoding='([^']*)'", r'[data] encoding = "\1"'),
    (r"encoder and decoder in from_pieces", "[model] encoder_name_or_path and decoder_name_or_path"),
    (r"Decoder\.from_pretrained\(path, key=key\) draws it anew",
     "naming the decoder as [model] decoder_name_or_path draws it anew"),
    (r"\(Decoder\.from_pretrained\(path, key=key\)\)", "([model] decoder_name_or_path)"),
    (r"(decoder|encoder|model)\.resize_token_embeddings\(", r"in Python, \1.resize_token_embeddings("),
    (r"\bset lora\b", "set [train] lora"),
    (r"\bTrue or False\b", "true or false"),
    (r"(?<== )True\b", "true"),
    (r"(?<== )False\b", "false"),
    (r"\bis False\b", "is false"),
    (r"=(['\"])([^'\"]*)\1", r' = "\2"'),
    (r" a sequence of names such as \[([^]]*)\]", r" a list of names such as [\1]"),
)  # fmt: skip
"""Patterns and what becomes of them, in this order."""

_TABLE = tuple((re.compile(pattern), words) for pattern, words in _WORDS)


@contextlib.contextmanager
def speaking_toml(*, speaking: bool = True) -> Iterator[None]:
    """Within it errors and findings give advice in TOML.

    Args:
        speaking: False leaves everything as it is.
    """
    token = _SPEAKING.set(speaking)
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, NotImplementedError) as error:
        if speaking and len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (translated(error.args[0]),)
        raise
    finally:
        _SPEAKING.reset(token)


def spoken(text: str) -> str:
    """A sentence as the user is to read it: as it is, or in TOML."""
    return translated(text) if _SPEAKING.get() else text


def translated(text: str) -> str:
    """The text with its Python in TOML's words."""
    for pattern, words in _TABLE:
        text = pattern.sub(words, text)
    return text
