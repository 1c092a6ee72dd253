"""Changes to finished models: other vocabulary sizes, arrays shared between the pieces."""
