from src.limiter import RateLimiter


def test_limit_holds_within_a_window():
    limiter = RateLimiter(limit=2, seconds=60, clock=lambda: 0.0)
    assert [limiter.allow("a") for _ in range(3)] == [True, True, False]
