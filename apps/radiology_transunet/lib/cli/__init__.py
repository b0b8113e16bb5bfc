"""The command line; starts and ends processes."""
