"""Options of the fuzzers, and the process that they share. Knows no kind of mutation."""

from collections.abc import Iterator
from typing import Any

import pytest
from worker import Worker


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much, and which."""
    group = parser.getgroup("fuzz", "fuzzers")
    group.addoption("--mutations", type=int, default=1_000, help="mutations of every kind (default: 1000)")
    group.addoption("--seed", type=int, default=0, help="another seed makes others (default: 0)")
    group.addoption("--first", type=int, default=0, help="number of the first mutation, to run one again")


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The process that damaged files are read in."""
    worker = Worker(tmp_path_factory.mktemp("fuzz"))
    yield worker
    worker.close()


@pytest.fixture
def numbers(request: pytest.FixtureRequest) -> range:
    """The numbers of the mutations to make."""
    first: Any = request.config.getoption("--first")
    number: Any = request.config.getoption("--mutations")
    return range(first, first + number)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of all of them."""
    chosen: Any = request.config.getoption("--seed")
    return chosen
