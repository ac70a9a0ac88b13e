"""What every `tmem bench ...` command is made of.

`figures` is a measured value with its goal, `rig` the daemons and helper programs that measurements use, `servers` the other servers that tmem is
held beside, `run` goes through measurements and prints what they found.
"""
