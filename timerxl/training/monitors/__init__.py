"""Rules over the metrics of a run, live or replayed from its log."""
