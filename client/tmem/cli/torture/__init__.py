"""Random testing of a tmem service: `tmem torture`.

Owns: what is asked at random (`load`), what was answered and whether that can be (`history`), and the command.
"""
