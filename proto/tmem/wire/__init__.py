"""What both sides of the wire know, without I/O.

Handles and extents, the splice that keeps page bytes out of protobuf, the LZ4 codec between caller buffers and chunks,
checksums, the tree of exceptions and its table, and every limit by name. Nothing here opens a socket, reads a clock or
starts a thread.
"""
