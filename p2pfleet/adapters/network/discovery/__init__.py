"""Finding others, remembering them, and being connected with whom the core wants."""
