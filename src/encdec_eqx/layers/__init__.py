"""The parts that blocks are made of, each with its config beside it."""
