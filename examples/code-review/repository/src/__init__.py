"""A small rate limiter for an HTTP service."""
