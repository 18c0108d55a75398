"""Plain data and arithmetic; standard library and numpy only."""
