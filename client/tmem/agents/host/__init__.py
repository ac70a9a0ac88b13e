"""The machine under the agents: control groups, locked memory, mounts, loop devices, swap areas.

Each module owns one kind of thing, takes the paths that it reads as arguments where a test must give others, and turns the
kernel's refusals into OSError with a message that names the thing.
"""
