"""A model for use elsewhere: one file for each format, and `formats`, which knows them by name."""
