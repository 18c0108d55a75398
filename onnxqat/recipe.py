"""Recipes: what the user chose, read from TOML."""
