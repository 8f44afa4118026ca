"""Names that published tensors have, by the paths of our variables."""
