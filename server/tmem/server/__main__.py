"""`python -m tmem.server` is `tmemd`."""

import sys

from .entry import main

sys.exit(main())
