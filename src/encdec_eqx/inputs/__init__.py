"""What turns a model's input into the first hidden states: token embeddings, so far."""
