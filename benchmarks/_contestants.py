"""Who takes part in the train-step benchmark: which worker, and how it is asked to train.

Pure data; it must not know JAX, torch or the library.
"""

import dataclasses
from typing import Any

MODULES = {"jax": "benchmarks._jax_training", "torch": "benchmarks._torch_training"}
REFERENCE = "torch"
"""The contestant that every other one is measured beside."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to train.

    Attributes:
        side: "jax" or "torch".
        title: what the tables call it.
        options: what its worker is prepared with.
        ragged: whether it takes part where batches have many lengths.
    """

    side: str
    title: str
    options: dict[str, Any]
    ragged: bool = False


CONTESTANTS = {
    "ours": Contestant(side="jax", title="ours", options={"layout": "scanned", "remat": "keep_products"}, ragged=True),
    "torch": Contestant(
        side="torch", title="torch eager", options={"compiled": False, "recompute": False}, ragged=True
    ),
    "ours_remat": Contestant(
        side="jax", title="ours, recomputing", options={"layout": "scanned", "remat": "keep_nothing"}
    ),
    "torch_remat": Contestant(
        side="torch", title="torch eager, recomputing", options={"compiled": False, "recompute": True}
    ),
    "torch_compile": Contestant(side="torch", title="torch.compile", options={"compiled": True, "recompute": False}),
    "ours_keep_all": Contestant(
        side="jax", title="ours, keeping all", options={"layout": "scanned", "remat": "keep_all"}
    ),
    "ours_unrolled": Contestant(side="jax", title="ours, unrolled", options={"layout": "unrolled", "remat": False}),
}

USUAL = ("ours", "torch", "ours_remat", "torch_remat", "torch_compile")
