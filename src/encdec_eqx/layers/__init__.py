"""The layers that blocks are made of. Knows nothing of stacks, caches or model families."""
