"""The table of the field: several runs, measured alike."""
