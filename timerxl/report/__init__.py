"""Pictures: the only part that imports matplotlib. Figures are drawn without a screen."""
