"""What comes of a load: figures and their definitions, kept as an artifact, shown, and compared (notebook 08)."""
