"""Published tables run again with the released weights: what was measured beside what was published."""
