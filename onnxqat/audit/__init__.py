"""Objections to a file, before deployment."""
