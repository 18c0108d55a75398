"""The audit rules."""
