"""Compiling in a fraction of the time, for checks that do not ask how well XLA optimises. Knows nothing of models."""

import functools
import importlib.metadata

import equinox as eqx

_OPTIONS: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # later versions have no such emitters, and do not know the option
    _OPTIONS["xla_cpu_use_fusion_emitters"] = False

quick_jit = functools.partial(eqx.filter_jit, compiler_options=_OPTIONS)
"""`eqx.filter_jit` without optimisation: a tiny pair's gradient compiles in 1.6 s instead of 9 s, a call in 0.4 s
instead of 2.5 s."""
