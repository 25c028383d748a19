"""Frozen values, named by the glossary in ``protocol/glossary.md``."""
