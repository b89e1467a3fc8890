"""The instruments against second instruments and against hand counts: ``python -m hograd_bench.validation``."""
