"""`python -m tmem.cli` is `tmem`."""

from .entry import main

main()
