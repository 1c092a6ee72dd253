"""Changes to finished models: cross-attention for a decoder, other vocabulary sizes, arrays that the pieces share."""
