"""Agents: what moves real memory out to a tmem server and back.

`host` is what they share of the machine, `swap` lets the kernel swap to the server, `pager` pages a program's memory by
userfaultfd, `run` runs one program with less local memory than it needs. An agent is linked against `tmem.client` and knows
nothing of the server or of the command line.
"""
