"""Training through a whole region: its gradients, computed again strip by strip, in little memory.

A forward pass keeps the map that enters each block and the states that cross from strip to strip; everything else is
computed again, a strip at a time, when the gradients come. ADR 12 has the reasons.
"""
