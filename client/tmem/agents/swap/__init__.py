"""The swap agent: the kernel swaps to a tmem server.

A FUSE file system of one file, served by a worker process; a loop device over that file; a swap area on the device. Any
process in a memory-limited control group then spills to remote memory, and nobody had to change it.

    protocol.py   what the kernel says on /dev/fuse, and how it is answered (pure)
    core.py       the file: reads, writes, holes; what may be answered, and what never (pure)
    remote.py     the one place that uses the client
    shared.py     memory that outlives workers: counters, the table of requests in hand, what each page is
    worker.py     one thread: /dev/fuse and the link in one loop
    holder.py     keeps the descriptors, replaces workers, enforces the deadline
    device.py     attach and detach, step by step, undone when a step fails
"""
