"""Claude API client: calls, batches, prices, budget and a journal of all calls. The only package that uses the SDK."""
