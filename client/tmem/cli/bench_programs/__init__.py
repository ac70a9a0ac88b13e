"""`tmem bench programs`: what little local memory does to real programs, by each way of having the rest elsewhere.

A program is one module: `sorting` (GNU sort), `arrays` (numpy), `database` (sqlite3), `keyvalue` (redis-server); `programs` says what one has to
offer, `numpy_work` and `sqlite_work` are what Python runs of them. `ways` are the ways: a swap area (`areas` has the local ones), the swap
agent, the pager. `slowdown` runs every program by every way, `faults` takes apart what one fault takes. `undo` and `guard` see to it that nothing
is left. `rig` has the sizes, `command` the options, `page` the report.
"""
