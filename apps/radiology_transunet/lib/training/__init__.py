"""(Volume, Mask) pairs to weights."""
