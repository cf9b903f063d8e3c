"""An ablation study: what is varied, and what came of it."""
