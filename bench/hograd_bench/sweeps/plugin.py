"""pytest plugin of the sweeps room."""
