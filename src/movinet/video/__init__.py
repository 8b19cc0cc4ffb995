"""Video in and out: decode, sample by time, preprocess, draw and write. NumPy, PyAV and Pillow; no torch."""
