"""What a model says of patches as files that other tools open, every one placed by the same level-0 rectangles."""
