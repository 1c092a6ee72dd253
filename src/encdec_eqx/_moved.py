"""Import paths of earlier versions: a module that has moved is still found under its old name."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

PATHS = {
    "blocks.abstract_block": "blocks.block",
    "checkpoint.errors": "hf.files",
    "checkpoint.flax_file": "hf.files.flax_file",
    "checkpoint.folder": "hf.files.folder",
    "checkpoint.hub": "hf.files.hub",
    "checkpoint.safetensors_file": "hf.files.safetensors_file",
    "checkpoint.table": "hf.names",
    "checkpoint": "hf",
    "families._attributes": "hf.attributes",
    "families._ignored": "hf.ignored",
    "doctor.learning_rate": "doctor.forward",
    "doctor.reading": "doctor.losses",
    "demo.batches": "demo.pieces",
    "demo.metrics": "demo.run",
    "demo.recipe": "demo.run",
    "demo.vocabulary": "demo.lexicon",
    "families": "hf.families",
    "scanned": "stack",
    "params.names": "params.param_names",
    "generation.assistants": "generation.plan_checks",
    "generation.buckets": "generation.source_and_prompt",
    "generation.candidates": "generation.search.beam_hypotheses",
    "generation.compilations": "generation.result",
    "generation.constraints.interface": "generation.constraints.constraint",
    "generation.constraints.minimise": "generation.constraints.dfa",
    "generation.constraints.tables": "generation.constraints.dfa",
    "generation.derived": "generation.options",
    "generation.prompt": "generation.source_and_prompt",
    "generation.resolve": "generation.plan",
    "generation.settings": "generation.generation_config",
    "generation.source": "generation.source_and_prompt",
    "layers.dropout": "layers.linear",
    "layers.low_rank": "layers.linear",
    "layers.masks": "layers.context",
    "training.checkpoints": "training.resume",
    "training.closing": "training.callbacks",
    "training.config": "training.train_config",
    "training.course": "training.resume.same_run",
    "training.data.csv_rows": "training.data.csv_and_parquet",
    "training.data.fields": "training.data.records",
    "training.data.sample": "training.data.batches",
    "training.diagnosis": "doctor",
    "training.in_toml": "training.toml",
    "training.interrupts": "_signals",
    "training.log": "training.reporting.log",
    "training.lora": "params.lora",
    "training.names": "params.param_names",
    "training.optimizer": "training.optim.optimizer",
    "training.preflight": "training.run_job",
    "training.prepared": "training.training_run",
    "training.progress": "training.reporting.progress",
    "training.reading": "training.model_examples",
    "training.resume.arrays": "training.resume.state_arrays",
    "training.resume.files": "training.resume.checkpoint_files",
    "training.schedules": "training.optim.schedules",
    "training.selectors": "params.selectors",
    "training.standing": "training.reporting.tracking",
    "training.stopping_length": "training.evaluation",
}
"""Old dotted names below the package to today's; what lies below a moved package is found in the new one."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads a moved module by its new name, and puts that very module under the old one."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if _today(fullname) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        today = _today(spec.name)
        assert today is not None
        module = importlib.import_module(today)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed under its own name, and keeps its own spec."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _today(fullname: str) -> str | None:
    package, _, name = fullname.partition(".")
    if package != __package__:
        return None
    for old, new in PATHS.items():
        if name == old or name.startswith(old + "."):
            return f"{package}.{new}{name[len(old) :]}"
    return None


def install() -> None:
    """Find moved modules from now on; first of all, or what lies below a moved package would be loaded twice."""
    sys.meta_path.insert(0, _Finder())
