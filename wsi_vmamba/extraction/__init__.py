"""Slides to feature files: which slides, one slide from file to features, who works on them, what became of each."""
