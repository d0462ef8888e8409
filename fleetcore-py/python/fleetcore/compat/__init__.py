"""Modules with the names and results of other tools, over this one: see MIGRATING.md."""
