"""Running one program with less local memory than it needs.

ways.py      what a way of doing that has to offer; `tmem run --via` names one
program.py   the program: started inside its control group, waited for, never left behind
swapping.py  the way by kernel swap: a memory-limited control group and a swap device
guard.py     takes everything down when `tmem run` itself is killed
"""
