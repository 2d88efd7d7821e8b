"""Tests: one name for each of their modules, `tests.NAME`, wherever it is imported from."""
