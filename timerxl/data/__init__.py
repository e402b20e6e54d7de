"""Weather series: reading, labels, splits and windows."""
