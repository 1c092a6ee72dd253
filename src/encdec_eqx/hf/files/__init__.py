"""The files of checkpoints: safetensors, Flax's msgpack, folders, the Hub."""
