"""Images: reading, fitting, measuring, decoding and reporting."""
