"""autoseg: a dataset in, the best segmentation model that the data and the time allow out."""

__version__ = "0.1.0"
