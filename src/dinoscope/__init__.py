"""Self-supervised vision, made usable, measured and visible."""

__version__ = "0.1.0"
