"""The built-in SYNTHETIC weather series, whose true chance of rain is known."""
