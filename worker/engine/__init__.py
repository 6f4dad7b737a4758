"""Continuous batching: requests in, tokens out, one `step()` at a time. Knows no Redis."""
