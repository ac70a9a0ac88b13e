"""Agents: programs that move real memory to a tmem server and back.

Each agent has a pure protocol core and a driver that does its I/O. Agents are clients: they never import the server.
"""
