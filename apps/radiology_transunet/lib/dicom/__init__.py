"""Wire and bytes to core values and back: archive, series, SEG, NIfTI."""
