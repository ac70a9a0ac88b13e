"""`python -m tmem.server` is `tmemd`."""

import sys

from .cli import main

sys.exit(main())
