"""Which case next, from scores and embeddings alone."""
