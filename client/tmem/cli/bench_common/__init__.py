"""What every `tmem bench ...` command is made of.

`figures` is a measured value with its goal, `rig` the daemons and helper programs that measurements use, `servers` the other servers that tmem is
held beside, `run` goes through measurements and prints what they found, `pages` and `plots` are what HTML reports are made of,
`options` and `machine` what the commands have in common at their two ends.
"""
