"""The daemon: compressed pages of many clients in lent memory, over gRPC."""
