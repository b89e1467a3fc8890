"""The instruments against second instruments and against hand counts: ``python -m studies.validation``."""
