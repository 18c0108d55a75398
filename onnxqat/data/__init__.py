"""Batches of named arrays from files, folders and functions; no torch."""
