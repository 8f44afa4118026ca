"""Rain and noise removal from a few images (TRNR)."""
