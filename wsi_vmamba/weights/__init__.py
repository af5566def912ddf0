"""Weights by name: imported from any checkpoint, downloaded on request, listed and verified."""
