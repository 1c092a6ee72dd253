"""Which process of how many this is, and where the first one listens: as the caller or the cluster says."""

import dataclasses
import os
import re

from ..._quoting import quoted

AUTO = "auto"
_MOST_PROCESSES = 2**16
_LONGEST_WAIT = 24 * 3600
_HOW = (
    "Give all three in every process: --coordinator HOST:PORT (where process 0 runs, and a port that is free there), "
    "--num-processes N, and --process-id from 0 to N - 1."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """How a command runs in several processes that train together; by default it runs alone.

    Attributes:
        coordinator: Host and port at which process 0 waits for the others, such as "10.0.0.1:12345"; "auto": as the
            cluster says (SLURM, Open MPI, Cloud TPU, Kubernetes).
        num_processes: How many processes there are.
        process_id: Which of them this one is, from 0.
        coordinator_timeout: Seconds that the processes wait for each other at the start. Default 300.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    coordinator_timeout: int | None = None

    def __post_init__(self):
        """Checks that what is given belongs together."""
        ids = {"--num-processes": self.num_processes, "--process-id": self.process_id}
        given = [name for name, value in ids.items() if value is not None]
        if self.coordinator is None:
            useless = [*given, *(["--coordinator-timeout"] if self.coordinator_timeout is not None else [])]
            if useless:
                raise ValueError(f"{useless[0]} says nothing without --coordinator. {_HOW}")
            return
        if not 1 <= self.timeout <= _LONGEST_WAIT:
            raise ValueError(
                f"--coordinator-timeout must be from 1 to {_LONGEST_WAIT} seconds, got {quoted(self.timeout)}."
            )
        if self.coordinator == AUTO:
            if given:
                raise ValueError(f"--coordinator {AUTO} asks the cluster for everything: leave {given[0]} out.")
            return
        _host_and_port(self.coordinator)
        missing = [name for name in ids if name not in given]
        if missing:
            raise ValueError(f"--coordinator {self.coordinator} needs {' and '.join(missing)} too. {_HOW}")
        _check_ids(self.num_processes, self.process_id)

    @property
    def timeout(self) -> int:
        """Seconds that the processes wait for each other at the start."""
        return 300 if self.coordinator_timeout is None else self.coordinator_timeout

    def place(self) -> "Place | None":
        """Where this process stands among the others; None if it runs alone.

        Raises:
            ValueError: The cluster is to say so, and none is found.
        """
        if self.coordinator is None:
            return None
        if self.coordinator == AUTO:
            found = _of_the_cluster(self.timeout)
        else:
            assert self.num_processes is not None
            assert self.process_id is not None
            host, port = _host_and_port(self.coordinator)
            found = Place(host, port, self.num_processes, self.process_id)
        return None if found.count == 1 else found


@dataclasses.dataclass(frozen=True)
class Place:
    """A process among others.

    Attributes:
        host: Where process 0 runs.
        port: The port there.
        count: How many processes there are.
        number: Which this one is, from 0.
        local_device_ids: Which of the machine's devices are this process's; None: all.
    """

    host: str
    port: int
    count: int
    number: int
    local_device_ids: tuple[int, ...] | None = None

    @property
    def address(self) -> str:
        """Host and port as jax takes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _host_and_port(address: str) -> tuple[str, int]:
    match = re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\]:(\d{1,5})|([^\s:/\[\]]+):(\d{1,5})", address)
    port = int(match[2] or match[4]) if match else 0
    if match is None or not 1 <= port < 2**16:
        raise ValueError(
            f"--coordinator must be HOST:PORT, such as 10.0.0.1:12345 or [fd00::1]:12345, or {AUTO}; got "
            f"{quoted(address)}."
        )
    return match[1] or match[3], port


def _check_ids(count: int | None, number: int | None) -> None:
    if count is None or not 1 <= count <= _MOST_PROCESSES:
        raise ValueError(f"--num-processes must be from 1 to {_MOST_PROCESSES}, got {quoted(count)}.")
    if number is None or not 0 <= number < count:
        raise ValueError(
            f"--process-id must be from 0 to {count - 1} (of --num-processes {count}), got {quoted(number)}."
        )


def _of_the_cluster(timeout: int) -> Place:
    """What jax finds out from the environment, as `jax.distributed.initialize()` would."""
    from jax._src.clusters import ClusterEnv

    address, count, number, local = ClusterEnv.auto_detect_unset_distributed_params(
        os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, timeout
    )
    if address is None or count is None or number is None:
        raise ValueError(
            f"--coordinator {AUTO}: this is no job of SLURM (started by srun), Open MPI, Cloud TPU or Kubernetes (with "
            f"the package kubernetes) that jax knows. {_HOW}"
        )
    host, port = _host_and_port(address)
    return Place(host, port, count, number, None if local is None else tuple(local))
