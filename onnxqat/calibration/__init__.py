"""Activations become ranges."""
