"""Paid work by Claude: what a call costs, what was asked and answered, and the calls themselves."""
