"""Fixtures of the tests against live torch. Knows no test."""

from generation_pairs import models as models
