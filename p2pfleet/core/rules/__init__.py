"""Pure functions, each one chapter of ``protocol/``. A rule knows no other rule."""
