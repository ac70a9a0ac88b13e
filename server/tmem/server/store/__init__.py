"""Holding pages. Pure: no gRPC, no event loop, no socket, no clock.

`interface` says what a store is; `plain` is the plainest one; `layers` wrap one; `pools` knows which pools there are and
who may use them; `engine` puts the rules of the contract (fences, floors, freezing, draining) before a store.
"""
