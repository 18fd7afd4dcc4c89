"""The engine on a GPU, beside the literal torch form on the same GPU and the arithmetic limit."""
