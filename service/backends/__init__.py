"""How arms are called: the HTTP client of the hot path, one attempt, and the chain of retries and fallbacks."""
