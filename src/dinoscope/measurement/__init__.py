"""Jaccard on VOC, explanations in numbers, and J and F on DAVIS."""
