"""`python -m tmem.cli` is `tmem`."""

from .main import main

main()
