"""Pathways between dictionary features: gradients, what lies between, the replayed cause; what several steps share."""
