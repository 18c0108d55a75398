"""The steps of `prepare`: each changes its graph in place and reports what it did."""
