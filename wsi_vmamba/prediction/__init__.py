"""A trained model on new slides: probabilities, decisions, what it says of patches, and heatmaps for other tools."""
