"""Pictures, tables and the report of a run. No torch here; matplotlib and jinja2 only inside functions."""
