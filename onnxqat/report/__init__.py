"""Renderers: results as text for people and programs."""
