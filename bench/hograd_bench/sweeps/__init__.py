"""The pytest-benchmark modules, one a family of operators, and the plugin that feeds them cells."""
