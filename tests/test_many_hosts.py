"""The recipes of the page on many hosts: scripts that a shell reads, and manifests and options that fit together."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from encdec_eqx.training.cluster import Processes
from encdec_eqx.training.job import read_job

PAGE = (Path(__file__).parent.parent / "docs" / "many_hosts.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def processes(command: str) -> Processes:
    """What the options of a command line say of processes."""
    words = shlex.split(command.replace("$JOB_COMPLETION_INDEX", "1"))
    given: dict[str, Any] = {}
    for name in ("coordinator", "num_processes", "process_id"):
        option = f"--{name.replace('_', '-')}"
        if option in words:
            value = words[words.index(option) + 1]
            given[name] = value if name == "coordinator" else int(value)
    return Processes(**given)


@pytest.mark.parametrize("script", blocks("bash"))
def test_a_shell_reads_the_scripts(script: str):
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_hosts_that_are_started_by_hand_are_all_of_one_run():
    commands = [line for line in blocks("bash")[0].splitlines() if line]
    found = [processes(command) for command in commands]
    assert [one.process_id for one in found] == list(range(len(found)))
    assert {(one.coordinator, one.num_processes) for one in found} == {("10.0.0.1:12345", len(found))}


def test_the_job_of_slurm_asks_slurm():
    (script,) = [block for block in blocks("bash") if "#SBATCH" in block]
    (command,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert processes(command) == Processes(coordinator="auto")
    sizes = {name: int(value) for name, value in re.findall(r"--(nodes|ntasks-per-node|gpus-per-node)=(\d+)", script)}
    assert sizes["ntasks-per-node"] == sizes["gpus-per-node"]  # as jax takes it: a device each
    assert re.search(r'"\$status" -eq 3 ', script)


def test_the_manifest_starts_the_processes_that_its_command_names(tmp_path: Path):
    yaml = pytest.importorskip("yaml")
    jobset, of_tpus = (yaml.safe_load(block) for block in blocks("yaml"))
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    found = processes(container["command"][-1])
    assert found.num_processes == spec["completions"] == spec["parallelism"]
    name = jobset["metadata"]["name"]
    assert found.coordinator == f"{name}-{job['name']}-0-0.{name}:12345"
    assert (spec["completionMode"], pod["restartPolicy"], spec["backoffLimit"]) == ("Indexed", "Never", 0)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    (tmp_path / "job.toml").write_text(blocks("toml")[0])
    devices = container["resources"]["limits"]["nvidia.com/gpu"] * spec["completions"]
    assert read_job(tmp_path / "job.toml").mesh.devices == devices
    assert list(of_tpus["containers"][0]["resources"]["limits"]) == ["google.com/tpu"]
