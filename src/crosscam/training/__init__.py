"""Learning a recipe: the loop, and what it stands on."""
