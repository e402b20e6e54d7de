"""The model card, section by section."""
