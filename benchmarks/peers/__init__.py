"""The same mathematics in plain PyTorch, to be compared with."""
