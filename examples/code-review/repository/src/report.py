"""Summaries of what the service did."""


def busiest(counts):
    """The clients by number of requests, the busiest first."""
    return sorted(counts, key=counts.get, reverse=True)


def average(counts):
    """The mean number of requests of a client."""
    return sum(counts.values()) / len(counts)
