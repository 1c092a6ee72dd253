"""Damaged files of every kind: right values or an error that teaches, soon, and never the end of the process."""

import re
from collections import Counter

import pytest
from served import kinds
from worker import Outcome, Worker

ENOUGH = 200
"""Mutations from which on a kind must have been refused at times, and at times not."""


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_damaged_files(kind: str, worker: Worker, seed: int, numbers: range):
    outcomes = [worker.run(kind, seed, number) for number in numbers]
    results = Counter(outcome.result for outcome in outcomes)
    faulty = [outcome for outcome in outcomes if outcome.faults]
    assert not faulty, f"{len(faulty)} of {len(outcomes)} ({dict(results)}):\n{_listed(kind, seed, faulty)}"
    if len(outcomes) >= ENOUGH:
        assert 0.02 < results["refused"] / len(outcomes) < 0.98, results


def _listed(kind: str, seed: int, faulty: list[Outcome]) -> str:
    """One of each sort of fault, with the options that show it again."""
    sorts: dict[str, list[tuple[Outcome, str]]] = {}
    for outcome in faulty:
        for fault in outcome.faults:
            sorts.setdefault(re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "…", fault)[:70], []).append((outcome, fault))
    return "\n".join(
        f"{len(found)} like: -k {kind} --seed {seed} --first {found[0][0].index} --mutations 1\n"
        f"    {found[0][0].what!a:.400}\n    {found[0][1]!a:.700}"
        for found in sorts.values()
    )
