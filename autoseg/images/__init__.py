"""The only place that knows file formats: one checked reader, one verified writer."""
