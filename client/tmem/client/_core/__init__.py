"""The client without I/O: what to send, what is in flight, what to replay, what is stored where.

No socket, no thread, no clock, no gRPC: bytes and times go in, bytes and results come out. The faces (sync, aio) own
connections and waiting, and call in here under one lock or on one loop.
"""
