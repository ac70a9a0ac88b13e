"""The conformance kit: what a tmem service must do, as statements that are checked against any endpoint.

Owns: `tmem conformance`. The statements are grouped by noun, one module each; `kit` runs them, `stage` gives them servers, pools and
strangers. A new statement is a function with `@statement(NUMBER, "...")` in the module of its noun.
"""

from .kit import Outcome, Statement, run, statements
from .stage import Endpoint

__all__ = ["Endpoint", "Outcome", "Statement", "run", "statements"]
