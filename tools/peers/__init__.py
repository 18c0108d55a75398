"""Drivers of other tools. Each runs alone, in a virtual environment that holds only that tool."""
