"""``python -m foldserve``."""

from foldserve.cli import main

main()
