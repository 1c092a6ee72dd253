"""Generation: settings, special tokens, logits processors, buckets, and the loops. See `generate.generate`."""
