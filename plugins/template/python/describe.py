"""What there is to say about a list of numbers. Knows nothing of plugins, so any Python can test it."""

import statistics


def describe(numbers):
    """`None` where there are no numbers."""
    if not numbers:
        return None
    return {
        "count": len(numbers),
        "mean": statistics.fmean(numbers),
        "median": statistics.median(numbers),
        "least": min(numbers),
        "most": max(numbers),
    }


def text(found):
    return "{count} numbers: mean {mean:g}, median {median:g}, least {least:g}, most {most:g}".format(**found)
