"""Constrained decoding: automata over tokens, held in arrays, and what builds them. Knows no model and no loop."""

from .dfa import TokenDFA as TokenDFA
from .interface import AbstractConstraint as AbstractConstraint
from .sequences import from_sequences as from_sequences
from .text_regex import from_regex as from_regex
from .token_regex import from_token_regex as from_token_regex
from .trie import TokenTrie as TokenTrie
