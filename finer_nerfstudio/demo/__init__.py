"""The generated scene and capture, so that nothing has to be downloaded to try things."""
