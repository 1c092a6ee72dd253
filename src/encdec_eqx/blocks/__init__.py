"""One transformer layer a file. Knows nothing of how many there are or in which order they run."""
