"""A model's arrays by name: which are trained, LoRA beside them, and summaries."""
