"""Observers: what is kept of the activations that pass through one tensor."""
