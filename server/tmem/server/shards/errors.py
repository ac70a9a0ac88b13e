"""What can be wrong with shards."""

__all__ = ["ShardError"]


class ShardError(Exception):
    """A shard could not be started; what it said of that is on standard error."""
