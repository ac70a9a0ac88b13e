"""`tmem bench store`: what the store promises, measured against its goals.

`figures` is a measured value with its goal, `rig` the daemons, processes and pages that measurements use, `holder` and `writer` are
programs that it starts. One module per measurement: `index`, `residency`, `growth`, `cleaning`, `refusal`, `weights`, `crashes`, `recovery`,
`rivals` (with `sockets`, their protocols). `command` runs them and prints.
"""
