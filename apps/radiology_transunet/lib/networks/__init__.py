"""Networks and their configs; torch alone."""
