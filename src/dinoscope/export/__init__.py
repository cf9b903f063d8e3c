"""A model for use elsewhere: the formats by name, and what each of them writes."""
