"""Everything that happens between a recipe and a trained, scored model."""
