"""`python -m cotlens.cli` is the command `cotlens`."""

from cotlens.cli import main

main()
