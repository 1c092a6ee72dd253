"""Constrained decoding: automata over tokens, held in arrays, and what builds them."""

from .constraint import AbstractConstraint as AbstractConstraint
from .dfa import TokenDFA as TokenDFA
from .regex import from_regex as from_regex
from .regex import from_token_regex as from_token_regex
from .trie import TokenTrie as TokenTrie
from .trie import from_sequences as from_sequences
