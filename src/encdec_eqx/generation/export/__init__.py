"""A whole call of `generate` as one StableHLO program in a folder that jax alone can run."""
