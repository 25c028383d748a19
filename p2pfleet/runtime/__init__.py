"""The trio shell around the core: events in, effects out, and what carries the effects out."""
