"""`python -m lib.cli`: the same command, for child processes."""

from lib.cli.main import main

main()
