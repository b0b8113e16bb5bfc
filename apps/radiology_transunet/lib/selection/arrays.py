"""Types of the arrays of this room."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
"""Embeddings: of a million cases they are the largest array by far, so they are kept as they were made."""
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]
