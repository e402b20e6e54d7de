"""What may be wrong with a series, found before it is trained on."""
