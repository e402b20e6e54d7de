"""Tables of strangers (CSV, Parquet, station formats): columns, units, times, missing codes."""
