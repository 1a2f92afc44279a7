"""Paid work by Claude: what a call costs, what was asked and answered, the calls. The one room that knows the SDK."""
