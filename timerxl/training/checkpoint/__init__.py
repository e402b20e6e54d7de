"""All that the next step depends on, saved and loaded by all ranks."""
