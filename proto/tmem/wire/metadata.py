"""The metadata keys of the contract, shared by both sides."""

__all__ = ["AUTHORIZATION", "BEARER", "REASON"]

# Request: "Bearer " and the tenant's token.
AUTHORIZATION = "authorization"
BEARER = "Bearer "
# Trailing, beside a status that is not OK: the name of the RefusalReason.
REASON = "tmem-reason"
