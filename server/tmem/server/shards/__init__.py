"""Several processes that are one server: a shard each of the pages, one address for scrapers, one thing to start and stop.

`plan` says which settings each shard runs with, `supervisor` starts, watches and restarts the processes, `control` is how a shard hears
from it, `totals` adds up what they report.
"""
