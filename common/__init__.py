"""What the three methods share: data, state, loop, checkpoints, layers."""

__all__: list[str] = []
