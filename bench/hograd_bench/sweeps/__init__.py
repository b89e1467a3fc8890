"""The pytest-benchmark module that measures cells, and the plugin that feeds it."""
